"""Speaks with nuncio as others do that serve or ask with grpcio and xds-protos: a client of CSDS asks admin what nuncio
has of its control plane, LRS is told of the load of clusters, and HDS has hosts checked."""

import queue
from concurrent import futures

import grpc
from envoy.admin.v3 import config_dump_shared_pb2
from envoy.config.core.v3 import health_check_pb2
from envoy.service.health.v3 import hds_pb2, hds_pb2_grpc
from envoy.service.load_stats.v3 import lrs_pb2, lrs_pb2_grpc
from envoy.service.status.v3 import csds_pb2, csds_pb2_grpc
from google.protobuf import duration_pb2, wrappers_pb2

import drive
from drive import (
    PREFIX,
    TYPES,
    expect,
    free_port,
    get,
    new_cluster,
    new_endpoints,
    new_listener,
    new_routes,
    new_server,
    upstream,
)


class Loads(lrs_pb2_grpc.LoadReportingServiceServicer):
    """Keeps the reports that come."""

    def __init__(self):
        self.nodes, self.issued, self.reports = [], {}, 0

    def StreamLoadStats(self, requests, context):
        for number, request in enumerate(requests):
            if number == 0:
                self.nodes.append(request.node.id)
                interval = duration_pb2.Duration(nanos=200_000_000)
                yield lrs_pb2.LoadStatsResponse(send_all_clusters=True, load_reporting_interval=interval)
            self.reports += 1
            for cluster in request.cluster_stats:
                issued = sum(locality.total_issued_requests for locality in cluster.upstream_locality_stats)
                self.issued[cluster.cluster_name] = self.issued.get(cluster.cluster_name, 0) + issued


class Checks(hds_pb2_grpc.HealthDiscoveryServiceServicer):
    """Has one host checked that answers, and one that refuses."""

    def __init__(self, ports):
        self.ports, self.asked, self.found = ports, queue.Queue(), {}

    def StreamHealthCheck(self, requests, context):
        for request in requests:
            if request.HasField("health_check_request"):
                self.asked.put(request.health_check_request.node.id)
                yield self.specifier()
            response = request.endpoint_health_response
            for cluster in response.cluster_endpoints_health:
                for locality in cluster.locality_endpoints_health:
                    for health in locality.endpoints_health:
                        port = health.endpoint.address.socket_address.port_value
                        self.found[port] = health.health_status

    def specifier(self):
        specifier = hds_pb2.HealthCheckSpecifier(interval=duration_pb2.Duration(nanos=100_000_000))
        cluster = specifier.cluster_health_checks.add(cluster_name="checked")
        cluster.health_checks.append(
            health_check_pb2.HealthCheck(
                timeout=duration_pb2.Duration(seconds=1),
                interval=duration_pb2.Duration(nanos=50_000_000),
                no_traffic_interval=duration_pb2.Duration(nanos=50_000_000),
                unhealthy_threshold=wrappers_pb2.UInt32Value(value=1),
                healthy_threshold=wrappers_pb2.UInt32Value(value=1),
                http_health_check=health_check_pb2.HealthCheck.HttpHealthCheck(path="/"),
            )
        )
        locality = cluster.locality_endpoints.add()
        for port in self.ports:
            address = locality.endpoints.add().address.socket_address
            address.address, address.port_value = "127.0.0.1", port
        return specifier


def serve(*servicers):
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    for add, servicer in servicers:
        add(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    return server, port


def of_kind(response, kind):
    """The resources of a kind, by name."""
    configs = response.config[0].generic_xds_configs
    return {config.name: config for config in configs if config.type_url == PREFIX + TYPES[kind]}


def csds(nuncio, push):
    status = csds_pb2_grpc.ClientStatusDiscoveryServiceStub(grpc.insecure_channel(f"127.0.0.1:{nuncio.port}"))
    request = csds_pb2.ClientStatusRequest()
    fetch = lambda: status.FetchClientStatus(request, timeout=5)  # noqa: E731
    expect("CSDS tells who is asked", "interop", lambda: fetch().config[0].node.id)
    state = lambda kind, name: state_of(fetch(), kind, name)  # noqa: E731
    for kind, name in [("clusters", "one"), ("endpoints", "one"), ("listeners", "front"), ("routes", "routes")]:
        expect(f"CSDS tells that {kind} are in force", "ACKED", lambda kind=kind, name=name: state(kind, name))
    push(broken=True)
    expect("CSDS tells of what is refused", "NACKED", lambda: state("clusters", "broken"))
    expect("and why", "broken", lambda: of_kind(fetch(), "clusters")["broken"].error_state.details)
    asked = queue.Queue()
    answers = status.StreamClientStatus(iter(asked.get, None), timeout=20)
    for _ in range(3):
        asked.put(csds_pb2.ClientStatusRequest(exclude_resource_contents=True))
        cluster = of_kind(next(answers), "clusters")["one"]
        assert not cluster.HasField("xds_config") and cluster.version_info, cluster
    asked.put(request)
    assert of_kind(next(answers), "clusters")["one"].HasField("xds_config")
    asked.put(None)
    assert next(answers, None) is None
    print("ok: CSDS answers one request after the other", flush=True)


def state_of(response, kind, name):
    found = of_kind(response, kind).get(name)
    return "nothing" if found is None else config_dump_shared_pb2.ClientResourceStatus.Name(found.client_status)


def live(binary):
    a, closed = upstream("a"), free_port()
    loads, checks = Loads(), Checks([a, closed])
    server, port = serve(
        (lrs_pb2_grpc.add_LoadReportingServiceServicer_to_server, loads),
        (hds_pb2_grpc.add_HealthDiscoveryServiceServicer_to_server, checks),
    )
    plane, front = drive.Grpc(), free_port()
    source = plane.source

    def push(broken=False):
        clusters = [new_cluster(source, "one")]
        if broken:
            clusters.append(new_cluster(source, "broken", lb_policy="CLUSTER_PROVIDED"))
        plane.push(
            {
                "clusters": clusters,
                "endpoints": [new_endpoints("one", a)],
                "routes": [new_routes("one")],
                "listeners": [new_listener(source, "front", front)],
                "secrets": [],
            }
        )

    push()
    service = {
        "api_type": "GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "services"}}],
    }
    beside = [new_server("services", port)]
    nuncio = drive.Nuncio(binary, plane, beside, hds_config=service, cluster_manager={"load_stats_config": service})
    try:
        expect("all of it comes", "a", lambda: get(front))
        csds(nuncio, push)
        expect("LRS is told who reports", "interop", lambda: loads.nodes)
        # Requests count from when the server has said what it wants to know.
        expect("LRS is told at intervals", True, lambda: [loads.reports > 1])
        before = loads.issued.get("one", 0)
        for _ in range(7):
            get(front)
        expect("LRS is told of the load", 7, lambda: [loads.issued.get("one", 0) - before])
        expect("HDS is told who checks", "interop", lambda: checks.asked.queue)
        healthy, unhealthy = health_check_pb2.HEALTHY, health_check_pb2.UNHEALTHY
        expect("HDS is told of a host that answers", healthy, lambda: [checks.found.get(a)])
        expect("and of one that does not", unhealthy, lambda: [checks.found.get(closed)])
    finally:
        nuncio.stop()
        plane.stop()
        server.stop(None)

