// Drives nuncio through a life of configuration from go-control-plane's snapshot cache and server: it starts two
// upstreams, the control plane and nuncio, pushes one snapshot after the other, and looks at what a client sees.
package main

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listener "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	route "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	_ "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	clusterservice "github.com/envoyproxy/go-control-plane/envoy/service/cluster/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	endpointservice "github.com/envoyproxy/go-control-plane/envoy/service/endpoint/v3"
	listenerservice "github.com/envoyproxy/go-control-plane/envoy/service/listener/v3"
	routeservice "github.com/envoyproxy/go-control-plane/envoy/service/route/v3"
	secretservice "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

const node = "interop"

var (
	binary       = flag.String("nuncio", "nuncio", "the binary to drive")
	certificates = flag.String("certificates", "", "folder of server.pem, client.pem and their keys")
	mode         = flag.String("mode", "ads-sotw", "ads-sotw, ads-delta, sotw or delta")
)

// The last NACK of each type.
var nacks sync.Map

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

func parse[T proto.Message](message T, text string) types.Resource {
	if err := protojson.Unmarshal([]byte(text), message); err != nil {
		log.Fatalf("%v in %s", err, text)
	}
	return message
}

// Where resources come from, as JSON of a ConfigSource.
func source() string {
	if strings.HasPrefix(*mode, "ads") {
		return `{"ads": {}, "resource_api_version": "V3"}`
	}
	return `{"resource_api_version": "V3", "api_config_source": ` + server_of(*mode) + `}`
}

func server_of(dialect string) string {
	api := map[string]string{"sotw": "GRPC", "delta": "DELTA_GRPC"}[strings.TrimPrefix(dialect, "ads-")]
	return fmt.Sprintf(`{"api_type": %q, "transport_api_version": "V3", "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]}`, api)
}

func newCluster(name, more string) types.Resource {
	return parse(&cluster.Cluster{}, fmt.Sprintf(
		`{"name": %q, "type": "EDS", "connect_timeout": "1s", "eds_cluster_config": {"eds_config": %s} %s}`, name, source(), more))
}

func newEndpoints(name string, port int) types.Resource {
	return parse(&endpoint.ClusterLoadAssignment{}, fmt.Sprintf(
		`{"cluster_name": %q, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}}}]}]}`, name, port))
}

func newRoutes(cluster string) types.Resource {
	return parse(&route.RouteConfiguration{}, fmt.Sprintf(
		`{"name": "routes", "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": %q}}]}]}`, cluster))
}

// A listener; with TLS its certificate is a secret.
func newListener(name string, port int, secure bool) types.Resource {
	transport := ""
	if secure {
		transport = fmt.Sprintf(`"transport_socket": {"name": "tls", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
			"common_tls_context": {"tls_certificate_sds_secret_configs": [{"name": "cert", "sds_config": %s}]}}},`, source())
	}
	return parse(&listener.Listener{}, fmt.Sprintf(
		`{"name": %q, "address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}, "filter_chains": [{%s "filters": [{"name": "hcm", "typed_config": {
			"@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": %q,
			"rds": {"route_config_name": "routes", "config_source": %s},
			"http_filters": [{"name": "router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]}}]}]}`,
		name, port, transport, name, source()))
}

func newSecret(name string) types.Resource {
	read := func(file string) *core.DataSource {
		bytes := must(os.ReadFile(*certificates + "/" + file))
		return &core.DataSource{Specifier: &core.DataSource_InlineBytes{InlineBytes: bytes}}
	}
	certificate := &secret.TlsCertificate{CertificateChain: read(name + ".pem"), PrivateKey: read(name + ".key")}
	return &secret.Secret{Name: "cert", Type: &secret.Secret_TlsCertificate{TlsCertificate: certificate}}
}

func listen() (net.Listener, int) {
	socket := must(net.Listen("tcp", "127.0.0.1:0"))
	return socket, socket.Addr().(*net.TCPAddr).Port
}

func freePort() int {
	socket, port := listen()
	socket.Close()
	return port
}

func upstream(body string) int {
	socket, port := listen()
	go http.Serve(socket, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, body) }))
	return port
}

func serve(snapshots cache.SnapshotCache) int {
	socket, port := listen()
	note := func(url string, nack bool, text string) {
		if nack {
			nacks.Store(url, text)
			log.Printf("NACK of %s: %s", url, text)
		}
	}
	callbacks := server.CallbackFuncs{
		StreamRequestFunc: func(_ int64, r *discovery.DiscoveryRequest) error {
			note(r.TypeUrl, r.ErrorDetail != nil, r.ErrorDetail.GetMessage())
			return nil
		},
		StreamDeltaRequestFunc: func(_ int64, r *discovery.DeltaDiscoveryRequest) error {
			note(r.TypeUrl, r.ErrorDetail != nil, r.ErrorDetail.GetMessage())
			return nil
		},
	}
	xds, grpcServer := server.NewServer(context.Background(), snapshots, callbacks), grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, xds)
	clusterservice.RegisterClusterDiscoveryServiceServer(grpcServer, xds)
	endpointservice.RegisterEndpointDiscoveryServiceServer(grpcServer, xds)
	listenerservice.RegisterListenerDiscoveryServiceServer(grpcServer, xds)
	routeservice.RegisterRouteDiscoveryServiceServer(grpcServer, xds)
	secretservice.RegisterSecretDiscoveryServiceServer(grpcServer, xds)
	go grpcServer.Serve(socket)
	return port
}

func bootstrap(port int) string {
	ads := ""
	if strings.HasPrefix(*mode, "ads") {
		ads = `"ads_config": ` + server_of(*mode) + `,`
	}
	return fmt.Sprintf(`{"node": {"id": %q, "cluster": "interop"}, "dynamic_resources": {%s "cds_config": %s, "lds_config": %s},
		"static_resources": {"clusters": [{"name": "xds", "connect_timeout": "1s",
			"typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
				"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions", "explicit_http_config": {"http2_protocol_options": {}}}},
			"load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": %d}}}}]}]}}]}}`,
		node, ads, source(), source(), port)
}

// What a client sees: the body, or the subject of the certificate.
func body(port int) string {
	client := http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := client.Get(fmt.Sprintf("http://127.0.0.1:%d/", port))
	if err != nil {
		return "error: " + err.Error()
	}
	defer answer.Body.Close()
	return string(must(io.ReadAll(answer.Body)))
}

func subject(port int) string {
	connection, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return "error: " + err.Error()
	}
	defer connection.Close()
	return connection.ConnectionState().PeerCertificates[0].Subject.CommonName
}

func expect(what string, wanted string, look func() string) {
	until := time.Now().Add(15 * time.Second)
	for {
		now := look()
		if strings.Contains(now, wanted) {
			log.Printf("ok: %s", what)
			return
		}
		if time.Now().After(until) {
			log.Fatalf("%s: %q, not %q", what, now, wanted)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func main() {
	flag.Parse()
	log.SetPrefix(*mode + ": ")
	a, b := upstream("a"), upstream("b")
	front, secure := freePort(), freePort()
	snapshots := cache.NewSnapshotCache(strings.HasPrefix(*mode, "ads"), cache.IDHash{}, nil)
	port, version := serve(snapshots), 0
	push := func(clusters, endpoints, routes, listeners, secrets []types.Resource) {
		version++
		snapshot := must(cache.NewSnapshot(fmt.Sprint(version), map[resource.Type][]types.Resource{
			resource.ClusterType: clusters, resource.EndpointType: endpoints, resource.RouteType: routes,
			resource.ListenerType: listeners, resource.SecretType: secrets,
		}))
		if err := snapshots.SetSnapshot(context.Background(), node, snapshot); err != nil {
			log.Fatal(err)
		}
	}
	all := func(resources ...types.Resource) []types.Resource { return resources }
	http1 := newListener("front", front, false)
	push(all(newCluster("one", "")), all(newEndpoints("one", a)), all(newRoutes("one")), all(http1), nil)

	process := exec.Command(*binary, "--config-yaml", bootstrap(port), "--concurrency", "1", "-l", "warn", "--use-dynamic-base-id")
	process.Stdout, process.Stderr = os.Stderr, os.Stderr
	if err := process.Start(); err != nil {
		log.Fatal(err)
	}
	defer process.Process.Kill()
	see := func() string { return body(front) }
	expect("all of it comes", "a", see)

	push(all(newCluster("one", "")), all(newEndpoints("one", b)), all(newRoutes("one")), all(http1), nil)
	expect("endpoints change", "b", see)

	push(all(newCluster("one", ""), newCluster("two", "")), all(newEndpoints("one", b), newEndpoints("two", a)), all(newRoutes("two")), all(http1), nil)
	expect("routes go to a new cluster", "a", see)

	broken := newCluster("broken", `, "lb_policy": "CLUSTER_PROVIDED"`)
	push(all(newCluster("two", ""), broken), all(newEndpoints("two", b)), all(newRoutes("two")), all(http1), nil)
	expect("a broken cluster is refused by name", "broken", func() string {
		text, _ := nacks.Load(resource.ClusterType)
		return fmt.Sprint(text)
	})
	expect("and the others serve", "b", see)

	tlsListener := newListener("secure", secure, true)
	push(all(newCluster("two", "")), all(newEndpoints("two", b)), all(newRoutes("two")), all(http1, tlsListener), all(newSecret("server")))
	expect("a secret comes", "server.test", func() string { return subject(secure) })
	push(all(newCluster("two", "")), all(newEndpoints("two", b)), all(newRoutes("two")), all(http1, tlsListener), all(newSecret("client")))
	expect("and is replaced", "client.test", func() string { return subject(secure) })

	push(all(newCluster("two", "")), all(newEndpoints("two", b)), all(newRoutes("two")), all(tlsListener), all(newSecret("client")))
	expect("a listener goes", "refused", see)
	expect("and the other stays", "client.test", func() string { return subject(secure) })
}
