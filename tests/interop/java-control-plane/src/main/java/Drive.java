import com.google.protobuf.Message;
import com.google.protobuf.TypeRegistry;
import com.google.protobuf.util.JsonFormat;
import io.envoyproxy.controlplane.cache.v3.SimpleCache;
import io.envoyproxy.controlplane.cache.v3.Snapshot;
import io.envoyproxy.controlplane.server.DiscoveryServerCallbacks;
import io.envoyproxy.controlplane.server.V3DiscoveryServer;
import io.envoyproxy.envoy.config.cluster.v3.Cluster;
import io.envoyproxy.envoy.config.endpoint.v3.ClusterLoadAssignment;
import io.envoyproxy.envoy.config.listener.v3.Listener;
import io.envoyproxy.envoy.config.route.v3.RouteConfiguration;
import io.envoyproxy.envoy.extensions.filters.http.router.v3.Router;
import io.envoyproxy.envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager;
import io.envoyproxy.envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext;
import io.envoyproxy.envoy.extensions.transport_sockets.tls.v3.Secret;
import io.envoyproxy.envoy.service.discovery.v3.DeltaDiscoveryRequest;
import io.envoyproxy.envoy.service.discovery.v3.DiscoveryRequest;
import io.grpc.Server;
import io.grpc.netty.shaded.io.grpc.netty.NettyServerBuilder;
import java.io.IOException;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.cert.X509Certificate;
import java.time.Duration;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import java.util.concurrent.ConcurrentHashMap;
import java.util.function.Supplier;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManager;
import javax.net.ssl.X509TrustManager;

/**
 * Drives nuncio through a life of configuration from java-control-plane's snapshot cache and server: it starts two
 * upstreams, the control plane and nuncio, pushes one snapshot after the other, and looks at what a client sees.
 * Arguments: the mode (ads-sotw, ads-delta, sotw or delta), the binary, the folder of certificates.
 */
public final class Drive {
  private static final String NODE = "interop";
  /** The last NACK of each type. */
  private static final Map<String, String> NACKS = new ConcurrentHashMap<>();
  private static String mode;
  private static String certificates;

  public static void main(String[] arguments) throws Exception {
    mode = arguments[0];
    certificates = arguments[2];
    int code = 0;
    try {
      drive(arguments[1]);
    } catch (IllegalStateException failed) {
      System.err.println(mode + ": " + failed.getMessage());
      code = 1;
    }
    // Threads of servers may still be there.
    System.exit(code);
  }

  private static void drive(String binary) throws Exception {
    int a = upstream("a");
    int b = upstream("b");
    int front = freePort();
    int secure = freePort();
    SimpleCache<String> cache = new SimpleCache<>(node -> NODE);
    Server server = serve(cache);
    Listener http1 = listener("front", front, false);
    Pushes pushes = new Pushes(cache);
    pushes.push(List.of(cluster("one", "")), List.of(endpoints("one", a)), "one", List.of(http1), List.of());
    Process process =
        new ProcessBuilder(binary, "--config-yaml", bootstrap(server.getPort()), "--concurrency", "1", "-l", "warn",
            "--use-dynamic-base-id").inheritIO().start();
    try {
      Supplier<String> see = () -> body(front);
      expect("all of it comes", "a", see);
      pushes.push(List.of(cluster("one", "")), List.of(endpoints("one", b)), "one", List.of(http1), List.of());
      expect("endpoints change", "b", see);
      pushes.push(List.of(cluster("one", ""), cluster("two", "")), List.of(endpoints("one", b), endpoints("two", a)),
          "two", List.of(http1), List.of());
      expect("routes go to a new cluster", "a", see);
      Cluster broken = cluster("broken", ", \"lb_policy\": \"CLUSTER_PROVIDED\"");
      pushes.push(List.of(cluster("two", ""), broken), List.of(endpoints("two", b)), "two", List.of(http1), List.of());
      expect("a broken cluster is refused by name", "broken",
          () -> NACKS.getOrDefault("type.googleapis.com/envoy.config.cluster.v3.Cluster", ""));
      expect("and the others serve", "b", see);
      Listener tls = listener("secure", secure, true);
      List<Cluster> two = List.of(cluster("two", ""));
      List<ClusterLoadAssignment> served = List.of(endpoints("two", b));
      pushes.push(two, served, "two", List.of(http1, tls), List.of(secret("server")));
      expect("a secret comes", "server.test", () -> subject(secure));
      pushes.push(two, served, "two", List.of(http1, tls), List.of(secret("client")));
      expect("and is replaced", "client.test", () -> subject(secure));
      pushes.push(two, served, "two", List.of(tls), List.of(secret("client")));
      expect("a listener goes", "ConnectException", see);
      expect("and the other stays", "client.test", () -> subject(secure));
    } finally {
      process.destroy();
      process.waitFor();
      server.shutdownNow();
    }
  }

  /** One snapshot after the other, each of a version of its own. */
  private static final class Pushes {
    private final SimpleCache<String> cache;
    private int version;

    Pushes(SimpleCache<String> cache) {
      this.cache = cache;
    }

    void push(List<Cluster> clusters, List<ClusterLoadAssignment> endpoints, String routedTo, List<Listener> listeners,
        List<Secret> secrets) {
      version++;
      List<RouteConfiguration> routes = List.of(routes(routedTo));
      cache.setSnapshot(NODE,
          Snapshot.create(clusters, endpoints, listeners, routes, secrets, Integer.toString(version)));
    }
  }

  private static Server serve(SimpleCache<String> cache) throws IOException {
    DiscoveryServerCallbacks callbacks = new DiscoveryServerCallbacks() {
      @Override
      public void onV3StreamRequest(long stream, DiscoveryRequest request) {
        note(request.getTypeUrl(), request.hasErrorDetail(), request.getErrorDetail().getMessage());
      }

      @Override
      public void onV3StreamDeltaRequest(long stream, DeltaDiscoveryRequest request) {
        note(request.getTypeUrl(), request.hasErrorDetail(), request.getErrorDetail().getMessage());
      }
    };
    V3DiscoveryServer xds = new V3DiscoveryServer(callbacks, cache);
    return NettyServerBuilder.forAddress(new InetSocketAddress("127.0.0.1", 0))
        .addService(xds.getAggregatedDiscoveryServiceImpl())
        .addService(xds.getClusterDiscoveryServiceImpl())
        .addService(xds.getEndpointDiscoveryServiceImpl())
        .addService(xds.getListenerDiscoveryServiceImpl())
        .addService(xds.getRouteDiscoveryServiceImpl())
        .addService(xds.getSecretDiscoveryServiceImpl())
        .build()
        .start();
  }

  private static void note(String type, boolean isNack, String text) {
    if (isNack) {
      NACKS.put(type, text);
      System.err.println(mode + ": NACK of " + type + ": " + text);
    }
  }

  private static <T extends Message.Builder> T parse(T builder, String json) {
    TypeRegistry registry = TypeRegistry.newBuilder()
        .add(List.of(Router.getDescriptor(), HttpConnectionManager.getDescriptor(), DownstreamTlsContext.getDescriptor()))
        .build();
    try {
      JsonFormat.parser().usingTypeRegistry(registry).merge(json, builder);
    } catch (IOException error) {
      throw new IllegalStateException(error.getMessage() + " in " + json);
    }
    return builder;
  }

  private static boolean isAggregated() {
    return mode.startsWith("ads-");
  }

  /** Where resources come from, as JSON of a ConfigSource. */
  private static String source() {
    return isAggregated()
        ? "{\"ads\": {}, \"resource_api_version\": \"V3\"}"
        : "{\"resource_api_version\": \"V3\", \"api_config_source\": " + api() + "}";
  }

  private static String api() {
    String type = mode.endsWith("delta") ? "DELTA_GRPC" : "GRPC";
    return "{\"api_type\": \"" + type + "\", \"transport_api_version\": \"V3\","
        + " \"grpc_services\": [{\"envoy_grpc\": {\"cluster_name\": \"xds\"}}]}";
  }

  private static String address(int port) {
    return "{\"socket_address\": {\"address\": \"127.0.0.1\", \"port_value\": " + port + "}}";
  }

  private static Cluster cluster(String name, String more) {
    return parse(Cluster.newBuilder(), "{\"name\": \"" + name + "\", \"type\": \"EDS\", \"connect_timeout\": \"1s\","
        + " \"eds_cluster_config\": {\"eds_config\": " + source() + "}" + more + "}").build();
  }

  private static ClusterLoadAssignment endpoints(String name, int port) {
    return parse(ClusterLoadAssignment.newBuilder(), "{\"cluster_name\": \"" + name + "\","
        + " \"endpoints\": [{\"lb_endpoints\": [{\"endpoint\": {\"address\": " + address(port) + "}}]}]}").build();
  }

  private static RouteConfiguration routes(String cluster) {
    return parse(RouteConfiguration.newBuilder(), "{\"name\": \"routes\", \"virtual_hosts\": [{\"name\": \"all\","
        + " \"domains\": [\"*\"], \"routes\": [{\"match\": {\"prefix\": \"/\"}, \"route\": {\"cluster\": \"" + cluster
        + "\"}}]}]}").build();
  }

  /** A listener; with TLS its certificate is a secret. */
  private static Listener listener(String name, int port, boolean isSecure) {
    String transport = "\"transport_socket\": {\"name\": \"tls\", \"typed_config\": {\"@type\":"
        + " \"type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\","
        + " \"common_tls_context\": {\"tls_certificate_sds_secret_configs\": [{\"name\": \"cert\", \"sds_config\": "
        + source() + "}]}}},";
    return parse(Listener.newBuilder(), "{\"name\": \"" + name + "\", \"address\": " + address(port)
        + ", \"filter_chains\": [{" + (isSecure ? transport : "") + " \"filters\": [{\"name\": \"hcm\","
        + " \"typed_config\": {\"@type\": \"type.googleapis.com/"
        + "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\", \"stat_prefix\": \""
        + name + "\", \"rds\": {\"route_config_name\": \"routes\", \"config_source\": " + source() + "},"
        + " \"http_filters\": [{\"name\": \"router\", \"typed_config\": {\"@type\":"
        + " \"type.googleapis.com/envoy.extensions.filters.http.router.v3.Router\"}}]}}]}]}").build();
  }

  private static Secret secret(String name) throws IOException {
    return parse(Secret.newBuilder(), "{\"name\": \"cert\", \"tls_certificate\": {\"certificate_chain\":"
        + " {\"inline_bytes\": \"" + file(name + ".pem") + "\"}, \"private_key\": {\"inline_bytes\": \""
        + file(name + ".key") + "\"}}}").build();
  }

  private static String file(String name) throws IOException {
    return Base64.getEncoder().encodeToString(Files.readAllBytes(Path.of(certificates, name)));
  }

  private static String bootstrap(int port) {
    return "{\"node\": {\"id\": \"" + NODE + "\", \"cluster\": \"interop\"}, \"dynamic_resources\": {"
        + (isAggregated() ? "\"ads_config\": " + api() + ", " : "") + "\"cds_config\": " + source()
        + ", \"lds_config\": " + source() + "}, \"static_resources\": {\"clusters\": [{\"name\": \"xds\","
        + " \"connect_timeout\": \"1s\", \"typed_extension_protocol_options\":"
        + " {\"envoy.extensions.upstreams.http.v3.HttpProtocolOptions\": {\"@type\":"
        + " \"type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\","
        + " \"explicit_http_config\": {\"http2_protocol_options\": {}}}}, \"load_assignment\": {\"cluster_name\":"
        + " \"xds\", \"endpoints\": [{\"lb_endpoints\": [{\"endpoint\": {\"address\": " + address(port) + "}}]}]}}]}}";
  }

  private static int upstream(String body) throws IOException {
    com.sun.net.httpserver.HttpServer server =
        com.sun.net.httpserver.HttpServer.create(new InetSocketAddress("127.0.0.1", 0), 0);
    byte[] bytes = body.getBytes(StandardCharsets.UTF_8);
    server.createContext("/", exchange -> {
      exchange.sendResponseHeaders(200, bytes.length);
      exchange.getResponseBody().write(bytes);
      exchange.close();
    });
    server.start();
    return server.getAddress().getPort();
  }

  private static int freePort() throws IOException {
    try (ServerSocket socket = new ServerSocket()) {
      socket.bind(new InetSocketAddress("127.0.0.1", 0));
      return socket.getLocalPort();
    }
  }

  /** What a client sees: the body, or why there is none. */
  private static String body(int port) {
    HttpClient client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    URI uri = URI.create("http://127.0.0.1:" + port + "/");
    HttpRequest request = HttpRequest.newBuilder(uri).timeout(Duration.ofSeconds(1)).build();
    try {
      return client.send(request, HttpResponse.BodyHandlers.ofString()).body();
    } catch (IOException | InterruptedException error) {
      return "error: " + error;
    }
  }

  /** The subject of the certificate. */
  private static String subject(int port) {
    TrustManager trusting = new X509TrustManager() {
      @Override
      public void checkClientTrusted(X509Certificate[] chain, String type) {}

      @Override
      public void checkServerTrusted(X509Certificate[] chain, String type) {}

      @Override
      public X509Certificate[] getAcceptedIssuers() {
        return new X509Certificate[0];
      }
    };
    try {
      SSLContext context = SSLContext.getInstance("TLS");
      context.init(null, new TrustManager[] {trusting}, null);
      try (SSLSocket socket = (SSLSocket) context.getSocketFactory().createSocket("127.0.0.1", port)) {
        socket.startHandshake();
        return ((X509Certificate) socket.getSession().getPeerCertificates()[0]).getSubjectX500Principal().getName();
      }
    } catch (Exception error) {
      return "error: " + error;
    }
  }

  private static void expect(String what, String wanted, Supplier<String> look) throws InterruptedException {
    long until = System.nanoTime() + Duration.ofSeconds(15).toNanos();
    while (true) {
      String now = look.get();
      if (now.contains(wanted)) {
        System.err.println(mode + ": ok: " + what);
        return;
      }
      if (System.nanoTime() > until) {
        throw new IllegalStateException(what + ": \"" + now + "\", not \"" + wanted + "\"");
      }
      Thread.sleep(5);
    }
  }
}
