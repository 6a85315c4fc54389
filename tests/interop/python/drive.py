"""Drives nuncio through a life of configuration from a server on grpcio with xds-protos (mode grpc) or from sovereign,
which is polled (mode rest): it starts two upstreams, the control plane and nuncio, pushes one state after the other,
and looks at what a client sees. Mode services: other services than discovery, on grpcio too (services.py)."""

import argparse
import http.client
import http.server
import json
import os
import queue
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures
from pathlib import Path

TYPES = {
    "clusters": "envoy.config.cluster.v3.Cluster",
    "endpoints": "envoy.config.endpoint.v3.ClusterLoadAssignment",
    "listeners": "envoy.config.listener.v3.Listener",
    "routes": "envoy.config.route.v3.RouteConfiguration",
    "secrets": "envoy.extensions.transport_sockets.tls.v3.Secret",
}
PREFIX = "type.googleapis.com/"


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=["grpc", "rest", "services"], required=True)
    parser.add_argument("--nuncio", required=True, help="the binary to drive")
    parser.add_argument("--certificates", required=True, help="folder of server.pem, client.pem and their keys")
    return parser.parse_args()


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return listening.getsockname()[1]


def upstream(body):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


class Grpc:
    """Aggregated discovery, state of the world, on grpcio with xds-protos."""

    source = {"ads": {}, "resource_api_version": "V3"}
    ads = {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
    }
    http2 = True

    def __init__(self):
        import grpc
        from envoy.service.discovery.v3 import ads_pb2_grpc

        self.state, self.version, self.nacks = {}, 0, {}
        self.changed = threading.Condition()
        plane = self

        class Service(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
            def StreamAggregatedResources(self, requests, context):
                return plane.serve(requests, context)

        server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(Service(), server)
        self.port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        self.server = server

    def serve(self, requests, context):
        import grpc
        from envoy.service.discovery.v3 import discovery_pb2

        wanted, sent, events = {}, {}, queue.Queue()

        def receive():
            try:
                for request in requests:
                    take(request)
            except grpc.RpcError:
                # The client is gone.
                pass

        def take(request):
            kind = next(k for k, name in TYPES.items() if request.type_url == PREFIX + name)
            if request.HasField("error_detail"):
                self.nacks[kind] = request.error_detail.message
            names = set(request.resource_names)
            if names - wanted.get(kind, set()) or kind not in wanted:
                sent.pop(kind, None)
            wanted[kind] = names
            events.put(None)

        threading.Thread(target=receive, daemon=True).start()
        nonce = 0
        while context.is_active():
            with self.changed:
                state, version = self.state, self.version
            for kind in TYPES:
                if kind not in wanted:
                    continue
                names = wanted[kind]
                resources = [r for r in state.get(kind, []) if not names or name_of(r) in names]
                if sent.get(kind) == resources:
                    continue
                sent[kind], nonce = resources, nonce + 1
                response = discovery_pb2.DiscoveryResponse(
                    version_info=str(version), type_url=PREFIX + TYPES[kind], nonce=str(nonce)
                )
                response.resources.extend(pack(TYPES[kind], r) for r in resources)
                yield response
            try:
                events.get(timeout=0.02)
            except queue.Empty:
                pass

    def push(self, state):
        with self.changed:
            self.state, self.version = state, self.version + 1

    def refused(self, nuncio):
        return self.nacks.get("clusters", "")

    def stop(self):
        self.server.stop(None)


class Rest:
    """sovereign, which answers with what its templates give: here what stands in a file."""

    source = {
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "REST",
            "transport_api_version": "V3",
            "cluster_names": ["xds"],
            "refresh_delay": "0.1s",
            "request_timeout": "5s",
        },
    }
    ads = None
    http2 = False

    def __init__(self):
        self.folder = tempfile.TemporaryDirectory()
        folder, self.port = Path(self.folder.name), free_port()
        self.file = folder / "state.json"
        self.push({})
        for kind in TYPES:
            (folder / f"{kind}.py").write_text(
                f"import json\n\n\ndef call(*_, **__):\n    yield from json.load(open({str(self.file)!r})).get({kind!r}, [])\n"
            )
        config = {
            "templates": {"default": {kind: f"python://{folder}/{kind}.py" for kind in TYPES}},
            "sources": [{"type": "inline", "config": {"instances": []}}],
            "node_matching": False,
        }
        (folder / "config.yaml").write_text(json.dumps(config))
        environment = dict(
            os.environ,
            SOVEREIGN_CONFIG=f"file://{folder}/config.yaml",
            SOVEREIGN_HOST="127.0.0.1",
            SOVEREIGN_PORT=str(self.port),
            SOVEREIGN_WORKERS="1",
        )
        program = Path(sys.executable).with_name("sovereign")
        self.log = open(folder / "log", "wb")
        self.process = subprocess.Popen([program], env=environment, stdout=self.log, stderr=self.log)

    def push(self, state):
        beside = self.file.with_suffix(".new")
        beside.write_text(json.dumps(state))
        beside.replace(self.file)

    def refused(self, nuncio):
        # The server does not learn of it: nuncio tells.
        return nuncio.admin("/xds")

    def stop(self):
        self.process.terminate()
        self.process.wait()


def name_of(resource):
    return resource.get("cluster_name") or resource["name"]


def pack(name, resource):
    from envoy.config.cluster.v3 import cluster_pb2
    from envoy.config.endpoint.v3 import endpoint_pb2
    from envoy.config.listener.v3 import listener_pb2
    from envoy.config.route.v3 import route_pb2
    from envoy.extensions.transport_sockets.tls.v3 import secret_pb2
    from google.protobuf import any_pb2, json_format

    # The types that stand in an Any of a resource.
    import envoy.extensions.filters.http.router.v3.router_pb2  # noqa: F401
    import envoy.extensions.filters.network.http_connection_manager.v3.http_connection_manager_pb2  # noqa: F401
    import envoy.extensions.transport_sockets.tls.v3.tls_pb2  # noqa: F401

    modules = [cluster_pb2, endpoint_pb2, listener_pb2, route_pb2, secret_pb2]
    kind = next(getattr(m, name.rsplit(".", 1)[1]) for m in modules if hasattr(m, name.rsplit(".", 1)[1]))
    packed = any_pb2.Any()
    packed.Pack(json_format.ParseDict(resource, kind()))
    return packed


def new_cluster(source, name, **more):
    return {"name": name, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": {"eds_config": source}, **more}


def new_server(name, port, http2=True):
    cluster = {"name": name, "connect_timeout": "1s", "load_assignment": new_endpoints(name, port)}
    if http2:
        options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
        explicit = {"@type": PREFIX + options, "explicit_http_config": {"http2_protocol_options": {}}}
        cluster["typed_extension_protocol_options"] = {options: explicit}
    return cluster


def new_endpoints(name, port):
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}


def new_routes(cluster):
    route = {"match": {"prefix": "/"}, "route": {"cluster": cluster}}
    return {"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]}


def new_listener(source, name, port, secure=False):
    router = {"@type": PREFIX + "envoy.extensions.filters.http.router.v3.Router"}
    manager = {
        "@type": PREFIX + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "rds": {"route_config_name": "routes", "config_source": source},
        "http_filters": [{"name": "router", "typed_config": router}],
    }
    chain = {"filters": [{"name": "hcm", "typed_config": manager}]}
    if secure:
        context = {
            "@type": PREFIX + "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "cert", "sds_config": source}]},
        }
        chain["transport_socket"] = {"name": "tls", "typed_config": context}
    address = {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    return {"name": name, "address": address, "filter_chains": [chain]}


def new_secret(folder, name):
    read = lambda file: {"inline_string": Path(folder, file).read_text()}  # noqa: E731
    certificate = {"certificate_chain": read(f"{name}.pem"), "private_key": read(f"{name}.key")}
    return {"name": "cert", "tls_certificate": certificate}


class Nuncio:
    def __init__(self, binary, plane, more_clusters=(), **more):
        address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}  # noqa: E731
        self.port = free_port()
        clusters = [new_server("xds", plane.port, plane.http2), *more_clusters]
        dynamic = {"cds_config": plane.source, "lds_config": plane.source}
        if plane.ads:
            dynamic["ads_config"] = plane.ads
        bootstrap = {
            "node": {"id": "interop", "cluster": "interop"},
            "admin": {"address": address(self.port)},
            "dynamic_resources": dynamic,
            "static_resources": {"clusters": clusters},
            **more,
        }
        arguments = ["--config-yaml", json.dumps(bootstrap), "--concurrency", "1", "-l", "warn", "--use-dynamic-base-id"]
        self.process = subprocess.Popen([binary, *arguments])

    def admin(self, path):
        return get(self.port, path)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def get(port, path="/"):
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    except OSError as error:
        return f"error: {error}"


def subject(port):
    """The common name of the certificate that is shown, as it stands in its bytes."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            with context.wrap_socket(connection) as secure:
                return secure.getpeercert(binary_form=True).decode("latin-1")
    except OSError as error:
        return f"error: {error}"


def expect(what, wanted, look):
    until = time.monotonic() + 30
    while wanted not in (now := look()):
        if time.monotonic() > until:
            sys.exit(f"{what}: {now!r}, not {wanted!r}")
        time.sleep(0.01)
    print(f"ok: {what}", flush=True)


def live(plane, nuncio_at, certificates):
    a, b, source = upstream("a"), upstream("b"), plane.source
    front, secure = free_port(), free_port()
    cluster = lambda name, **more: new_cluster(source, name, **more)  # noqa: E731
    plain, tls = new_listener(source, "front", front), new_listener(source, "secure", secure, secure=True)

    def push(clusters, endpoints, routes, listeners, secrets=()):
        plane.push(
            {
                "clusters": clusters,
                "endpoints": [new_endpoints(name, port) for name, port in endpoints.items()],
                "routes": [new_routes(routes)],
                "listeners": listeners,
                "secrets": [new_secret(certificates, name) for name in secrets],
            }
        )

    push([cluster("one")], {"one": a}, "one", [plain])
    nuncio = nuncio_at(plane)
    try:
        see = lambda: get(front)  # noqa: E731
        expect("all of it comes", "a", see)
        push([cluster("one")], {"one": b}, "one", [plain])
        expect("endpoints change", "b", see)
        push([cluster("one"), cluster("two")], {"one": b, "two": a}, "two", [plain])
        expect("routes go to a new cluster", "a", see)
        broken = cluster("broken", lb_policy="CLUSTER_PROVIDED")
        push([cluster("two"), broken], {"two": b}, "two", [plain])
        expect("a broken cluster is refused by name", "broken", lambda: plane.refused(nuncio))
        expect("and the others serve", "b", see)
        push([cluster("two")], {"two": b}, "two", [plain, tls], ["server"])
        expect("a secret comes", "server.test", lambda: subject(secure))
        push([cluster("two")], {"two": b}, "two", [plain, tls], ["client"])
        expect("and is replaced", "client.test", lambda: subject(secure))
        push([cluster("two")], {"two": b}, "two", [tls], ["client"])
        expect("a listener goes", "refused", see)
        expect("and the other stays", "client.test", lambda: subject(secure))
    finally:
        nuncio.stop()


def main():
    arguments = parse_arguments()
    if arguments.mode == "services":
        import services

        return services.live(arguments.nuncio)
    plane = {"grpc": Grpc, "rest": Rest}[arguments.mode]()
    try:
        live(plane, lambda plane: Nuncio(arguments.nuncio, plane), arguments.certificates)
    finally:
        plane.stop()


if __name__ == "__main__":
    main()
