"""Starts a process, loads it, and reads from /proc what that cost."""

import contextlib
import os
import pathlib
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time

TICK = os.sysconf("SC_CLK_TCK")


class Proxy:
    """A started process and all its children."""

    def __init__(self, command, core, log):
        self.log = open(log, "wb")
        self.started = time.monotonic()
        self.process = subprocess.Popen(pinned(command, core), stdout=self.log, stderr=self.log)

    def pids(self):
        found, todo = [], [self.process.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/task/{pid}/children") as children:
                    todo += [int(child) for child in children.read().split()]
        return found

    def cpu_seconds(self):
        """User and system time of the whole tree so far."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/stat") as stat:
                    # The name in parentheses may hold spaces; utime and stime are the 12th and 13th field behind it.
                    fields = stat.read().rsplit(")", 1)[1].split()
                total += int(fields[11]) + int(fields[12])
        return total / TICK

    def rss_bytes(self):
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                with open(f"/proc/{pid}/status") as status:
                    match = re.search(r"VmRSS:\s+(\d+) kB", status.read())
                total += int(match.group(1)) * 1024 if match else 0
        return total

    def wait_until_serving(self, port, path, deadline=60):
        """Seconds from the start of the process to its first answer on this port."""
        request = f"GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n".encode()
        while time.monotonic() - self.started < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"ended with {self.process.returncode}: {tail(self.log.name)}")
            with contextlib.suppress(OSError):
                with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                    connection.sendall(request)
                    if b" 200 " in connection.recv(4096):
                        return time.monotonic() - self.started
            time.sleep(0.001)
        raise RuntimeError(f"does not serve: {tail(self.log.name)}")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()


def tail(path):
    with open(path, errors="replace") as log:
        return log.read()[-2000:]


def pinned(command, core):
    return command if core is None else ["taskset", "-c", str(core), *command]


def load(work, port, seconds, core):
    """Runs the load generator of this work; returns requests, errors, seconds and p99 in milliseconds."""
    if work["from"] == "udp":
        return udp_load(work, port, seconds, core)
    if work["from"] == "handshake":
        return handshakes(work, port, seconds, core)
    scheme = "https" if work["setup"] == "tls" else "http"
    url = f"{scheme}://127.0.0.1:{port}{work['path']}"
    if work["from"] == "h1":
        return wrk(work, url, seconds, core)
    return h2load(work, url, seconds, core)


def wrk(work, url, seconds, core):
    command = ["wrk", "-t1", f"-c{work['connections']}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    for header in work.get("headers", []):
        command += ["-H", header]
    out = subprocess.run(pinned([*command, url], core), capture_output=True, text=True, check=True).stdout
    requests, took = re.search(r"(\d+) requests in ([\d.]+\w+)", out).groups()
    errors = sum(int(n) for n in re.findall(r"(?:connect|read|write|timeout) (\d+)", out))
    errors += sum(int(n) for n in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    p99 = re.search(r"99%\s+([\d.]+\w+)", out)
    return {"requests": int(requests), "errors": errors, "seconds": in_ms(took) / 1000, "p99": in_ms(p99.group(1)) if p99 else None}


def udp_load_binary():
    target = os.environ.get("CARGO_TARGET_DIR", str(pathlib.Path(__file__).resolve().parents[2] / "target"))
    return f"{target}/release/examples/udp_load"


def udp_load(work, port, seconds, core):
    """Each datagram that came back is a request."""
    command = [udp_load_binary(), "load", str(port), str(seconds), str(work["connections"]), str(work["window"])]
    out = subprocess.run(pinned(command, core), capture_output=True, text=True, check=True).stdout
    answered, lost, p99, took = re.fullmatch(r"(\d+) answered, (\d+) lost, (\d+) us, ([\d.]+) s\s*", out).groups()
    return {"requests": int(answered), "errors": int(lost), "seconds": float(took), "p99": int(p99) / 1000}


def in_ms(text):
    number, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()
    return float(number) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[unit]


def h2load(work, url, seconds, core):
    with tempfile.NamedTemporaryFile() as log:
        command = ["h2load", "-t1", f"-c{work['connections']}", f"-m{work['streams']}", "-D", str(seconds), f"--log-file={log.name}", url]
        out = subprocess.run(pinned(command, core), capture_output=True, text=True, check=True).stdout
        # Columns of the log: start, status, microseconds.
        times = sorted(int(line.split()[2]) for line in open(log.name))
    total, succeeded = (int(re.search(rf"requests: .*?(\d+) {word}", out).group(1)) for word in ("done", "succeeded"))
    p99 = times[int(len(times) * 0.99)] / 1000 if times else None
    return {"requests": succeeded, "errors": total - succeeded, "seconds": seconds, "p99": p99}


def handshakes(work, port, seconds, core):
    """Full handshakes of TLS 1.3, no session resumed, one after the other on each of so many connections."""
    command = pinned(["openssl", "s_time", "-new", "-tls1_3", "-connect", f"127.0.0.1:{port}", "-time", str(seconds)], core)
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for _ in range(work["connections"])]
    made, took = 0, 0
    for out in [process.communicate()[0] for process in running]:
        found = re.search(r"(\d+) connections in (\d+) real seconds", out)
        if found is None:
            raise RuntimeError(f"no handshakes: {out[-500:]}")
        made += int(found.group(1))
        took = max(took, int(found.group(2)))
    return {"requests": made, "errors": 0, "seconds": took, "p99": None}


class PeakRss:
    """The largest RSS of a proxy while the block runs."""

    def __init__(self, proxy):
        self.proxy, self.peak, self.done = proxy, 0, threading.Event()

    def __enter__(self):
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def watch(self):
        while not self.done.wait(0.2):
            self.peak = max(self.peak, self.proxy.rss_bytes())

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()


def idle_connections(proxy, port, count, tls=False):
    """Bytes of RSS for each of `count` connections that made one request and now idle."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    before = proxy.rss_bytes()
    connections = []
    request = b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n"
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port), timeout=10)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            connection = context.wrap_socket(connection)
        connection.sendall(request)
        connection.recv(4096)
        connections.append(connection)
    time.sleep(0.5)
    after = proxy.rss_bytes()
    for connection in connections:
        connection.close()
    return (after - before) / count
