//! Starts a proxy process (nuncio, or an Envoy to compare with) from YAML with placeholders, and stops it by its pid.

use super::name_server::{NameServer, Table};
use super::ports::free_port;
use super::upstream::{Script, Upstream};
use super::watch::{lock, watch};
use super::{DEADLINE, client, datagrams};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Certificates, `$CERTS` of a bootstrap.
pub(crate) const CERTIFICATES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/certificates");

/// Between two looks at something that a process is about to do.
const POLL: Duration = Duration::from_millis(5);

/// A proxy to be started.
///
/// Placeholders of the YAML: `$UPSTREAM`, `$UPSTREAM2`, ... are the ports of the upstreams in the order given, `$DNS`
/// that of a name server, `$DIR` is a folder of this proxy alone, `$CERTS` that of the
/// certificates.
pub(crate) struct Proxy {
    yaml: String,
    program: PathBuf,
    concurrency: u32,
    file_limit: Option<u64>,
    arguments: Vec<String>,
    upstreams: Vec<Script>,
    names: Table,
    files: Vec<(String, String)>,
    /// The status of `/ready` that is waited for.
    ready: u16,
}

/// The binary under test: this build of nuncio, or `$NUNCIO_BINARY`, such as an Envoy that a new test is tried on.
pub(crate) fn binary() -> PathBuf {
    std::env::var_os("NUNCIO_BINARY").map_or_else(|| PathBuf::from(env!("CARGO_BIN_EXE_nuncio")), PathBuf::from)
}

/// nuncio with this bootstrap. Listeners and admin bind port 0.
pub(crate) fn proxy(yaml: impl Into<String>) -> Proxy {
    Proxy {
        yaml: yaml.into(),
        program: binary(),
        concurrency: 1,
        file_limit: None,
        arguments: Vec::new(),
        upstreams: Vec::new(),
        names: Table::new(),
        files: Vec::new(),
        ready: 200,
    }
}

impl Proxy {
    /// Another binary that takes the same arguments.
    pub(crate) fn program(self, program: &Path) -> Self {
        Self { program: program.to_owned(), ..self }
    }

    /// Number of workers; 1 where it is not told.
    pub(crate) fn concurrency(self, concurrency: u32) -> Self {
        Self { concurrency, ..self }
    }

    /// How many files and sockets the process may have open.
    pub(crate) fn file_limit(self, limit: u64) -> Self {
        Self { file_limit: Some(limit), ..self }
    }

    /// It is not waited for until it is ready, but only until it says that it is not.
    pub(crate) fn unready(self) -> Self {
        Self { ready: 503, ..self }
    }

    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.to_owned());
        self
    }

    pub(crate) fn upstream(mut self, script: Script) -> Self {
        self.upstreams.push(script);
        self
    }

    /// What the name server knows, beside what it was told before.
    pub(crate) fn names(mut self, table: &Table) -> Self {
        self.names.extend(table.iter().cloned());
        self
    }

    /// A file in `$DIR`, with placeholders as the bootstrap has them.
    pub(crate) fn file(mut self, name: &str, content: &str) -> Self {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Starts the upstreams and the proxy and waits until it is ready; panics with its log where it does not get so.
    pub(crate) async fn run(self) -> Running {
        match self.start().await {
            Ok(running) => running,
            Err(e) => panic!("the proxy did not start: {e}"),
        }
    }

    /// As `run`, for tests of a bootstrap that is refused.
    pub(crate) async fn start(mut self) -> Result<Running, NotStarted> {
        let dir = Dir::new();
        let mut upstreams = Vec::new();
        for script in std::mem::take(&mut self.upstreams) {
            upstreams.push(script.start().await);
        }
        for (placeholder, name) in [("$ECHO", "re"), ("$UDP_A", "a"), ("$UDP_B", "b")] {
            if self.yaml.contains(placeholder) {
                self.yaml = self.yaml.replace(placeholder, &datagrams::host(name).await.to_string());
            }
        }
        if self.yaml.contains("$UDP_NOBODY") {
            self.yaml = self.yaml.replace("$UDP_NOBODY", &free_port().to_string());
        }
        if self.yaml.contains("$TCP_ECHO") {
            self.yaml = self.yaml.replace("$TCP_ECHO", &tcp_echo().await.to_string());
        }
        let name_server = NameServer::start(&self.names).await;
        self.yaml = self.yaml.replace("$DNS", &name_server.port().to_string());
        let config = dir.0.join("bootstrap.yaml");
        std::fs::write(&config, fill_in(&self.yaml, &dir.0, &upstreams)).expect("the test's folder is writable");
        for (name, content) in &self.files {
            let content = fill_in(content, &dir.0, &upstreams);
            std::fs::write(dir.0.join(name), content).expect("the test's folder is writable");
        }
        let log = std::fs::File::create(dir.0.join("log")).expect("the test's folder is writable");
        let mut command = Command::new(&self.program);
        if let Some(limit) = self.file_limit {
            limit_files(&mut command, limit);
        }
        let child = command
            .arg("-c")
            .arg(&config)
            .args(["--use-dynamic-base-id", "--admin-address-path"])
            .arg(dir.0.join("admin"))
            .args(["--concurrency", &self.concurrency.to_string()])
            .args(&self.arguments)
            .current_dir(&dir.0)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be opened twice"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", self.program.display()));
        let mut process = Process { child: watch(child), dir };
        let admin = process.ready(self.ready).await?;
        let listeners = listeners(admin).await;
        Ok(Running { process, admin, listeners, upstreams, name_server })
    }
}

/// A host that sends back what it is sent.
pub(crate) async fn tcp_echo() -> u16 {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = listener.local_addr().expect("it is bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
                let _ = tokio::io::AsyncWriteExt::shutdown(&mut to).await;
            });
        }
    });
    port
}

fn limit_files(command: &mut Command, files: u64) {
    let limit = libc::rlimit { rlim_cur: files, rlim_max: files };
    let set = move || {
        // SAFETY: setrlimit only reads the struct, and is safe to call between fork and exec.
        let failed = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0;
        if failed { Err(std::io::Error::last_os_error()) } else { Ok(()) }
    };
    // SAFETY: the closure makes one system call and allocates nothing.
    unsafe { command.pre_exec(set) };
}

fn fill_in(yaml: &str, dir: &Path, upstreams: &[Upstream]) -> String {
    let mut yaml = yaml.replace("$DIR", &dir.to_string_lossy()).replace("$CERTS", CERTIFICATES);
    // From the last to the first, since `$UPSTREAM` is a prefix of `$UPSTREAM2`.
    for (at, upstream) in upstreams.iter().enumerate().rev() {
        let number = if at == 0 { String::new() } else { (at + 1).to_string() };
        yaml = yaml.replace(&format!("$UPSTREAM{number}"), &upstream.port().to_string());
    }
    yaml
}

/// A process that ended before it was ready.
#[derive(Debug)]
pub(crate) struct NotStarted {
    pub(crate) status: ExitStatus,
    pub(crate) log: String,
}

impl std::fmt::Display for NotStarted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}\n{}", self.status, self.log)
    }
}

/// A ready proxy with its upstreams. Dropping it kills the process.
pub(crate) struct Running {
    process: Process,
    pub(crate) admin: SocketAddr,
    listeners: Vec<(String, SocketAddr)>,
    upstreams: Vec<Upstream>,
    name_server: NameServer,
}

impl Running {
    /// The bound address of the first listener.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.listeners.first().expect("the bootstrap has a listener").1
    }

    /// The bound address of the listener of this name.
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        let found = self.listeners.iter().find(|(n, _)| n == name);
        found.unwrap_or_else(|| panic!("no listener {name} among {:?}", self.listeners)).1
    }

    /// The bound address of the listener of this name as it is now, if there is one.
    pub(crate) async fn listener_now(&self, name: &str) -> Option<SocketAddr> {
        listeners(self.admin).await.into_iter().find(|(n, _)| n == name).map(|(_, address)| address)
    }

    /// Replaces a file in `$DIR` by a move, with placeholders as the bootstrap has them.
    pub(crate) fn replace(&self, name: &str, content: &str) {
        let next = self.process.dir.0.join(format!("{name}.next"));
        std::fs::write(&next, fill_in(content, &self.process.dir.0, &self.upstreams)).expect("the folder is writable");
        std::fs::rename(next, self.process.dir.0.join(name)).expect("the folder is writable");
    }

    /// The upstream of this position, from 0.
    pub(crate) fn upstream(&self, at: usize) -> &Upstream {
        &self.upstreams[at]
    }

    pub(crate) fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// That at port `$DNS`.
    pub(crate) fn name_server(&self) -> &NameServer {
        &self.name_server
    }

    /// What the admin interface answers.
    pub(crate) async fn admin(&self, path: &str) -> String {
        client::get(self.admin, path).await.expect("admin answers").text()
    }

    /// Name and value of every counter and gauge.
    pub(crate) async fn stats(&self) -> Vec<(String, String)> {
        let lines = self.admin("/stats").await;
        lines.lines().filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
    }

    /// The value of one counter or gauge; 0 where it does not exist.
    pub(crate) async fn stat(&self, name: &str) -> u64 {
        let stats = self.stats().await;
        stats.iter().find(|(n, _)| n == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
    }

    /// Waits until a counter or gauge has this value.
    pub(crate) async fn wait_for_stat(&self, name: &str, value: u64) {
        let until = Instant::now() + DEADLINE;
        loop {
            let now = self.stat(name).await;
            if now == value {
                return;
            }
            assert!(Instant::now() < until, "{name} is {now}, not {value}");
            tokio::time::sleep(POLL).await;
        }
    }

    /// A file in the proxy's own folder (`$DIR`), as Latin-1; empty where it does not exist.
    pub(crate) fn file(&self, name: &str) -> String {
        super::http1::latin1(&std::fs::read(self.process.dir.0.join(name)).unwrap_or_default())
    }

    /// The same once it holds anything: logs are written a moment after what they tell of.
    pub(crate) async fn file_once_written(&self, name: &str) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            let file = self.file(name);
            if !file.is_empty() || Instant::now() > until {
                return file;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// What the process wrote to its standard output and error.
    pub(crate) fn log(&self) -> String {
        self.file("log")
    }

    /// The proxy's own folder, `$DIR` of its bootstrap.
    pub(crate) fn dir(&self) -> &Path {
        &self.process.dir.0
    }

    /// Resident memory of the process, in bytes.
    pub(crate) fn rss(&self) -> u64 {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// User and system time that the process has taken so far.
    pub(crate) fn cpu_time(&self) -> Duration {
        let stat = self.proc("stat");
        // The name in parentheses may hold spaces; utime and stime are the 12th and 13th field behind it.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
        // 100 ticks a second on every Linux that this runs on (USER_HZ).
        Duration::from_millis(fields.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>() * 10)
    }

    /// The number of the process.
    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// How many files and sockets the process has open.
    pub(crate) fn open_files(&self) -> usize {
        let folder = format!("/proc/{}/fd", self.pid());
        std::fs::read_dir(folder).expect("the process is there").count()
    }

    /// The same, once it does not change: workers open theirs on threads that a busy machine may start late.
    pub(crate) async fn settled_open_files(&self) -> usize {
        let mut last = self.open_files();
        loop {
            tokio::time::sleep(Duration::from_millis(300)).await;
            match std::mem::replace(&mut last, self.open_files()) {
                before if before == last => return last,
                _ => {}
            }
        }
    }

    fn proc(&self, file: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{file}", self.pid())).expect("the process is there")
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: i32) {
        self.process.signal(signal);
    }

    /// Sends SIGTERM and waits for the end; files are complete thereafter.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.process.signal(libc::SIGTERM);
        self.wait().await
    }

    /// Waits for the end of the process.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = lock(&self.process.child).try_wait().expect("the child is ours") {
                return status;
            }
            assert!(Instant::now() < until, "still running\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }
}

struct Process {
    child: Arc<Mutex<Child>>,
    dir: Dir,
}

impl Process {
    fn pid(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Waits for the admin address and for this answer of `/ready`.
    async fn ready(&mut self, wanted: u16) -> Result<SocketAddr, NotStarted> {
        // A ring of eight million entries takes a debug build on a busy machine longer than any answer may.
        let until = Instant::now() + 4 * DEADLINE;
        loop {
            if let Some(status) = lock(&self.child).try_wait().expect("the child is ours") {
                return Err(NotStarted { status, log: self.log() });
            }
            let address = std::fs::read_to_string(self.dir.0.join("admin")).unwrap_or_default();
            if let Ok(admin) = address.trim().parse::<SocketAddr>()
                && client::get(admin, "/ready").await.is_ok_and(|response| response.status() == wanted)
            {
                return Ok(admin);
            }
            assert!(Instant::now() < until, "not ready within the deadline\n{}", self.log());
            tokio::time::sleep(POLL).await;
        }
    }

    fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.dir.0.join("log")).unwrap_or_default()).into_owned()
    }

    fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.pid()).expect("a pid fits pid_t");
        // SAFETY: kill takes two integers; the child was not waited for yet, so that its pid is still its own.
        unsafe { libc::kill(pid, signal) };
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = lock(&self.child);
        if let Ok(None) = child.try_wait() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A new folder that lives as long as the value.
pub(crate) struct Dir(pub(crate) PathBuf);

impl Dir {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nuncio-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("the temporary folder is writable");
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Names and addresses from `/listeners?format=json`, read without a JSON library: the proxies print these fields in
/// this order, name before address before port.
async fn listeners(admin: SocketAddr) -> Vec<(String, SocketAddr)> {
    let text = client::get(admin, "/listeners?format=json").await.expect("admin answers").text();
    let mut found = Vec::new();
    for part in text.split("\"name\":").skip(1) {
        let name = quoted(part);
        let address = part.split_once("\"address\":").map(|(_, rest)| quoted(rest)).unwrap_or_default();
        let port = part.split_once("\"port_value\":").map(|(_, rest)| rest.trim_start()).unwrap_or_default();
        let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
        if let (Ok(ip), Ok(port)) = (address.parse(), digits.parse()) {
            found.push((name, SocketAddr::new(ip, port)));
        }
    }
    found
}

fn quoted(text: &str) -> String {
    text.split('"').nth(1).unwrap_or_default().to_owned()
}
