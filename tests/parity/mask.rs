//! Replaces what differs between two runs of the same thing: ports, dates, random ids, durations.

use regex::Regex;
use std::sync::LazyLock;

/// What any run may have in its lines, and what stands for it.
static ALWAYS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let pattern = |p: &str| Regex::new(p).expect("a constant pattern is valid");
    vec![
        (pattern(r"(?i)(date|expires|last-modified): \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT"), "$1: <date>"),
        (pattern(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "<uuid>"),
        (pattern(r"(?i)(x-envoy-upstream-service-time): \d+"), "$1: <n>"),
        (pattern(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
    ]
});

static LOOPBACK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"127\.0\.0\.1:\d+").expect("a constant pattern is valid"));

/// The names of this run's ports, and the scenario's own patterns.
pub(super) struct Mask<'a> {
    ports: Vec<(Regex, String)>,
    own: &'a [(Regex, String)],
}

impl<'a> Mask<'a> {
    pub(super) fn new(own: &'a [(Regex, String)]) -> Self {
        Self { ports: Vec::new(), own }
    }

    /// From here on this port is called `name`.
    pub(super) fn port(&mut self, port: u16, name: &str) {
        let pattern = Regex::new(&format!(r"\b{port}\b")).expect("a number is a valid pattern");
        self.ports.push((pattern, format!("<{name}>")));
    }

    pub(super) fn apply(&self, line: &str) -> String {
        let mut line = line.to_owned();
        for (pattern, name) in &self.ports {
            line = pattern.replace_all(&line, name.as_str()).into_owned();
        }
        for (pattern, name) in ALWAYS.iter() {
            line = pattern.replace_all(&line, *name).into_owned();
        }
        line = LOOPBACK.replace_all(&line, "127.0.0.1:<ephemeral>").into_owned();
        for (pattern, name) in self.own {
            line = pattern.replace_all(&line, name.as_str()).into_owned();
        }
        line
    }
}

#[test]
fn ports_and_ids_of_a_run_are_masked() {
    let mut mask = Mask::new(&[]);
    mask.port(8080, "upstream");
    let line = "to 127.0.0.1:8080 from 127.0.0.1:4242 id 01234567-89ab-4def-8123-456789abcdef";
    assert_eq!(mask.apply(line), "to 127.0.0.1:<upstream> from 127.0.0.1:<ephemeral> id <uuid>");
}
