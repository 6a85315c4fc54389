"""The proxies that are compared: their configuration for each setup, and how each is started."""

import os
import pathlib
import shutil
import ssl
import subprocess
import sys

HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
FILTERS = "type.googleapis.com/envoy.extensions.filters.http"
TLS = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
UDP_PROXY = "type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.UdpProxyConfig"
TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"

# How many routes and clusters the setups "routes" and "clusters" have (issue 2, point 14).
MANY = 10_000

PORTS = {"upstream_h1": 18001, "upstream_h2": 18002, "main": 18010, "to_h2": 18011, "admin": 18019, "h2": 18012, "h2_to_h2": 18013, "tls": 18014, "udp": 18015, "upstream_udp": 18003}


def which(program):
    found = shutil.which(program) or next((p for p in (f"/usr/sbin/{program}",) if os.path.exists(p)), None)
    return found


# The certificate that all show: ECDSA with P-256.
CERTIFICATES = pathlib.Path(__file__).resolve().parents[2] / "tests/support/certificates"


def envoy_binary():
    """The Envoy to measure: a real binary, not a script in front of one."""
    if os.environ.get("NUNCIO_ENVOY"):
        return os.environ["NUNCIO_ENVOY"]
    installed = pathlib.Path(__file__).resolve().parents[2] / ".peers/python/envoy/_bin/envoy"
    if installed.exists():
        return str(installed)
    code = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return run.stdout.strip() if run.returncode == 0 else which("envoy")


# === Envoy's configuration, for Envoy and nuncio ===


def cluster(name, port, http2=False):
    lines = [
        f"  - name: {name}",
        "    connect_timeout: 5s",
        "    circuit_breakers: { thresholds: [{ max_connections: 100000, max_pending_requests: 100000, max_requests: 100000 }] }",
        f"    load_assignment: {{ cluster_name: {name}, endpoints: [{{ lb_endpoints: [{{ endpoint: {{ address: {{ socket_address: "
        f"{{ address: 127.0.0.1, port_value: {port} }} }} }} }}] }}] }}",
    ]
    if http2:
        lines.append(
            "    typed_extension_protocol_options: { envoy.extensions.upstreams.http.v3.HttpProtocolOptions: "
            f'{{ "@type": {HTTP_OPTIONS}, explicit_http_config: {{ http2_protocol_options: {{}} }} }} }}'
        )
    return lines


def pair(chain):
    return f"{{ certificate_chain: {{ filename: {chain} }}, private_key: {{ filename: {CERTIFICATES}/server.key }} }}"


def transport_socket(pairs=None):
    pairs = pairs or pair(CERTIFICATES / "server.pem")
    return [
        f'      transport_socket: {{ name: tls, typed_config: {{ "@type": {TLS}, common_tls_context: {{ '
        f"alpn_protocols: [h2, http/1.1], tls_certificates: [{pairs}] }} }} }}"
    ]


def many_certificates(folder):
    """Certificates that differ in their name, which is as long as that of the one they are made from. No peer is asked
    whether their signature is good."""
    into = pathlib.Path(folder) / "certificates"
    if into.exists():
        return
    into.mkdir()
    der = ssl.PEM_cert_to_DER_cert((CERTIFICATES / "server.pem").read_text())
    for n in range(MANY):
        (into / f"{n}.pem").write_text(ssl.DER_cert_to_PEM_cert(der.replace(b"server.test", f"s{n:05}.test".encode())))


def listener(name, port, routes, filters=(), access_log=(), vhost=(), transport=()):
    lines = [
        f"  - name: {name}",
        f"    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}",
        "    filter_chains:",
        "    - filters:",
        "      - name: http",
        "        typed_config:",
        f'          "@type": {HCM}',
        f"          stat_prefix: {name}",
        *[f"          {line}" for line in access_log],
        "          route_config:",
        "            virtual_hosts:",
        "            - name: all",
        '              domains: ["*"]',
        *[f"              {line}" for line in vhost],
        "              routes:",
        *[f"              {line}" for line in routes],
        "          http_filters:",
        *[f"          {line}" for line in filters],
        f'          - {{ name: router, typed_config: {{ "@type": {ROUTER} }} }}',
        *transport,
    ]
    return lines


def tcp_listener(name, port, to):
    return [
        f"  - name: {name}",
        f"    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}",
        "    filter_chains:",
        f'    - filters: [{{ name: tcp, typed_config: {{ "@type": {TCP_PROXY}, stat_prefix: {name}, cluster: {to} }} }}]',
    ]


def udp_listener(name, port, to):
    return [
        f"  - name: {name}",
        f"    address: {{ socket_address: {{ protocol: UDP, address: 127.0.0.1, port_value: {port} }} }}",
        f'    listener_filters: [{{ name: udp, typed_config: {{ "@type": {UDP_PROXY}, stat_prefix: {name}, cluster: {to} }} }}]',
    ]


def route(prefix, to):
    return f"- {{ match: {{ prefix: {prefix} }}, route: {{ cluster: {to} }} }}"


def filters_setup(folder):
    """header_mutation, cors and a JSON access log: what an edge proxy typically has."""
    filters = [
        f'- {{ name: cors, typed_config: {{ "@type": {FILTERS}.cors.v3.Cors }} }}',
        f'- {{ name: mutation, typed_config: {{ "@type": {FILTERS}.header_mutation.v3.HeaderMutation, mutations: {{ '
        "request_mutations: [{ append: { header: { key: x-bench, value: some } } }, { remove: x-unwanted }], "
        "response_mutations: [{ append: { header: { key: x-bench, value: some } } }] } } }",
    ]
    vhost = [
        f'typed_per_filter_config: {{ cors: {{ "@type": {FILTERS}.cors.v3.CorsPolicy, '
        "allow_origin_string_match: [{ exact: https://example.org }], allow_methods: GET } }"
    ]
    access_log = [
        "access_log: [{ name: file, typed_config: { "
        '"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, '
        f"path: {folder}/access.log, log_format: {{ json_format: {{ "
        'start: "%START_TIME%", method: "%REQ(:METHOD)%", path: "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", '
        'protocol: "%PROTOCOL%", status: "%RESPONSE_CODE%", flags: "%RESPONSE_FLAGS%", sent: "%BYTES_SENT%", '
        'duration: "%DURATION%", agent: "%REQ(USER-AGENT)%", id: "%REQ(X-REQUEST-ID)%", '
        'authority: "%REQ(:AUTHORITY)%", upstream: "%UPSTREAM_HOST%" } } } }]'
    ]
    return filters, access_log, vhost


def envoy_yaml(setup, folder):
    up_h1, up_h2 = PORTS["upstream_h1"], PORTS["upstream_h2"]
    listeners, clusters = [], [*cluster("up", up_h1), *cluster("up2", up_h2, http2=True)]
    if setup == "base":
        listeners = [*listener("main", PORTS["main"], [route("/", "up")]), *listener("to_h2", PORTS["to_h2"], [route("/", "up2")])]
    elif setup == "tls":
        # The port without TLS tells when the peer is up.
        secure = listener("tls", PORTS["tls"], [route("/", "up")], transport=transport_socket())
        listeners = [*listener("main", PORTS["main"], [route("/", "up")]), *secure]
    elif setup == "certificates":
        pairs = ", ".join(pair(f"{folder}/certificates/{n}.pem") for n in range(MANY))
        secure = listener("tls", PORTS["tls"], [route("/", "up")], transport=transport_socket(pairs))
        listeners = [*listener("main", PORTS["main"], [route("/", "up")]), *secure]
    elif setup == "tcp":
        # The port that tells when the peer is up is the one that is measured.
        listeners = tcp_listener("main", PORTS["main"], "up")
    elif setup == "udp":
        # The other listener tells when the peer is up.
        listeners = [*listener("main", PORTS["main"], [route("/", "up")]), *udp_listener("udp", PORTS["udp"], "up_udp")]
        clusters += cluster("up_udp", PORTS["upstream_udp"])
    elif setup == "routes":
        listeners = listener("main", PORTS["main"], [route(f"/route-{n:05}/", "up") for n in range(MANY)])
    elif setup == "clusters":
        listeners = listener("main", PORTS["main"], [route(f"/route-{n:05}/", f"cluster-{n}") for n in range(MANY)])
        clusters = [line for n in range(MANY) for line in cluster(f"cluster-{n}", up_h1)]
    elif setup == "filters":
        filters, access_log, vhost = filters_setup(folder)
        listeners = listener("main", PORTS["main"], [route("/", "up")], filters, access_log, vhost)
    admin = f"admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {PORTS['admin']} }} }} }}"
    return "\n".join([admin, "static_resources:", "  listeners:", *listeners, "  clusters:", *clusters]) + "\n"


# === the configurations of the others ===

HAPROXY = """
global
    nbthread 1
    maxconn 8000
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s
    http-reuse always
frontend main
    bind 127.0.0.1:{main}
    default_backend up
frontend tls
    bind 127.0.0.1:{tls} ssl crt {folder}/server.pem alpn h2,http/1.1
    default_backend up
frontend h2
    bind 127.0.0.1:{h2} proto h2
    default_backend up
frontend to_h2
    bind 127.0.0.1:{to_h2}
    default_backend up2
frontend h2_to_h2
    bind 127.0.0.1:{h2_to_h2} proto h2
    default_backend up2
backend up
    option forwardfor
    server s 127.0.0.1:{upstream_h1} pool-max-conn -1
backend up2
    option forwardfor
    server s 127.0.0.1:{upstream_h2} proto h2 pool-max-conn -1
"""

HAPROXY_TCP = """
global
    nbthread 1
    maxconn 8000
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend main
    bind 127.0.0.1:{main}
    default_backend up
backend up
    server s 127.0.0.1:{upstream_h1}
"""

NGINX_TCP = """
{load_stream}
worker_processes 1;
worker_rlimit_nofile 100000;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
daemon off;
events {{ worker_connections 20000; }}
stream {{
    server {{
        listen 127.0.0.1:{main} backlog=4096;
        proxy_pass 127.0.0.1:{upstream_h1};
    }}
}}
"""

# Where distributions put nginx's stream module, unless it is built in.
NGINX_STREAM = pathlib.Path("/usr/lib/nginx/modules/ngx_stream_module.so")

NGINX_PROXY = """
worker_processes 1;
worker_rlimit_nofile 100000;
pid {folder}/nginx.pid;
error_log {folder}/error.log crit;
daemon off;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    upstream up {{ server 127.0.0.1:{upstream_h1}; keepalive 1024; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{main} backlog=4096;
        listen 127.0.0.1:{h2} http2 backlog=4096;
        listen 127.0.0.1:{tls} ssl http2 backlog=4096;
        ssl_certificate {certificates}/server.pem;
        ssl_certificate_key {certificates}/server.key;
        ssl_protocols TLSv1.2 TLSv1.3;
        http2_max_concurrent_streams 1024;
        location / {{
            proxy_pass http://up;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
        }}
    }}
}}
"""

NGINX_UPSTREAM = """
worker_processes 1;
worker_rlimit_nofile 100000;
pid {folder}/upstream.pid;
error_log {folder}/upstream.log crit;
daemon off;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    keepalive_timeout 600s;
    sendfile on;
    tcp_nopush on;
    client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
    uwsgi_temp_path {folder}; scgi_temp_path {folder};
    server {{
        listen 127.0.0.1:{upstream_h1} backlog=4096;
        listen 127.0.0.1:{upstream_h2} http2 backlog=4096;
        http2_max_concurrent_streams 1024;
        root {folder}/www;
        location / {{ return 200 "hello, world\\n"; }}
        location /file/ {{ }}
    }}
}}
"""


class Peer:
    """One proxy: which works it can do, and the command that starts it."""

    def __init__(self, name, binary):
        self.name, self.binary = name, binary

    def can(self, work):
        if self.name in ("nuncio", "envoy"):
            return True
        if work["setup"] == "tcp":
            return self.name != "nginx" or NGINX_STREAM.exists()
        if work["setup"] == "tls":
            # HAProxy asks for two descriptors for each connection of its maximum, and gets fewer in many a place.
            return self.name != "haproxy" or work["name"] != "tls-idle"
        if work["setup"] != "base":
            return False
        return self.name == "haproxy" or work["to"] == "h1"

    def port(self, work):
        """HAProxy and nginx take HTTP/2 without TLS on a port of its own."""
        down, up = work["from"], work["to"]
        if work["setup"] == "tls":
            return PORTS["tls"]
        if down == "udp":
            return PORTS["udp"]
        if self.name in ("nuncio", "envoy"):
            return PORTS["to_h2" if up == "h2" else "main"]
        return PORTS[{("h1", "h1"): "main", ("h2", "h1"): "h2", ("h1", "h2"): "to_h2", ("h2", "h2"): "h2_to_h2"}[(down, up)]]

    def command(self, setup, folder):
        config = pathlib.Path(folder) / f"{self.name}.conf"
        if self.name in ("nuncio", "envoy"):
            config = config.with_suffix(".yaml")
            if setup == "certificates":
                many_certificates(folder)
            config.write_text(envoy_yaml(setup, folder))
            return [self.binary, "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id", "-l", "error"]
        texts = (HAPROXY_TCP, NGINX_TCP) if setup == "tcp" else (HAPROXY, NGINX_PROXY)
        text = texts[0] if self.name == "haproxy" else texts[1]
        (config.parent / "server.pem").write_text("".join((CERTIFICATES / name).read_text() for name in ("server.pem", "server.key")))
        load_stream = f"load_module {NGINX_STREAM};" if NGINX_STREAM.exists() else ""
        config.write_text(text.format(folder=folder, load_stream=load_stream, certificates=CERTIFICATES, **PORTS))
        return [self.binary, "-db", "-f", str(config)] if self.name == "haproxy" else [self.binary, "-c", str(config)]


def upstream_command(folder):
    """nginx as the upstream of all: a small answer, files of 64 KiB and 10 MiB, HTTP/1 and HTTP/2."""
    www = pathlib.Path(folder) / "www/file"
    www.mkdir(parents=True)
    (www / "64k").write_bytes(os.urandom(64 << 10))
    (www / "10m").write_bytes(os.urandom(10 << 20))
    config = pathlib.Path(folder) / "upstream.conf"
    config.write_text(NGINX_UPSTREAM.format(folder=folder, **PORTS))
    # The worker of a master that runs as root changes its user, who must be able to read the files.
    for path in (pathlib.Path(folder), www.parent, www):
        path.chmod(0o777)
    return [which("nginx"), "-c", str(config)]
