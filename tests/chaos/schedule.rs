//! What happens to the hosts, drawn from a seed: the same for every proxy.

use std::time::Duration;

/// Hosts that come and go.
pub(super) const HOSTS: usize = 20;

/// No more than this share of the hosts that DNS has is at fault at once.
const MAX_FAULTY: f64 = 0.25;

/// How a host answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Well,
    /// It refuses connections, and has closed those it had.
    Down,
    /// Every answer is a 503, those to health checks too.
    Unwell,
    /// Every answer but those to health checks is a 500.
    Broken,
    /// No answer.
    Silent,
    /// Answers take a while.
    Slow,
    /// Every request is answered with RST.
    Resets,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Turn(Mode),
    /// DNS has the host from now on.
    Add,
    /// DNS has it no longer.
    Remove,
}

/// An event of one host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) at: Duration,
    pub(super) host: usize,
    pub(super) event: Event,
}

/// SplitMix64: the same numbers from the same seed everywhere.
pub(super) struct Random(pub(super) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.next() % (to - from))
    }
}

/// One host, as far as the schedule has come.
#[derive(Clone, Copy)]
struct Planned {
    is_member: bool,
    /// It is left alone until then.
    busy_until: Duration,
}

/// All that happens within `length`, in order. In the beginning every second host is there.
pub(super) fn schedule(seed: u64, length: Duration) -> Vec<Entry> {
    let mut random = Random(seed);
    let mut hosts: Vec<_> =
        (0..HOSTS).map(|host| Planned { is_member: is_first(host), busy_until: Duration::ZERO }).collect();
    let mut entries = Vec::new();
    let mut now = Duration::from_millis(500);
    while now < length {
        now += random.millis(50, 250);
        let host = random.below(HOSTS);
        if now < hosts[host].busy_until {
            continue;
        }
        let members = hosts.iter().filter(|h| h.is_member).count();
        let faulty = hosts.iter().filter(|h| h.is_member && now < h.busy_until).count();
        let may_fail = (faulty + 1) as f64 <= members as f64 * MAX_FAULTY;
        let mut add = |after: Duration, event: Event| entries.push(Entry { at: now + after, host, event });
        if !hosts[host].is_member {
            add(Duration::ZERO, Event::Turn(Mode::Well));
            add(Duration::from_millis(100), Event::Add);
            hosts[host] = Planned { is_member: true, busy_until: now + Duration::from_millis(1500) };
        } else if may_fail {
            let lasts = random.millis(300, 3000);
            match [Mode::Down, Mode::Unwell, Mode::Broken, Mode::Silent, Mode::Slow, Mode::Resets].get(random.below(9))
            {
                Some(mode) => {
                    add(Duration::ZERO, Event::Turn(*mode));
                    add(lasts, Event::Turn(Mode::Well));
                    hosts[host].busy_until = now + lasts + Duration::from_millis(1000);
                }
                // A restart, of three times the chance.
                None if members < HOSTS / 2 => {
                    add(Duration::ZERO, Event::Turn(Mode::Down));
                    add(lasts / 10, Event::Turn(Mode::Well));
                    hosts[host].busy_until = now + Duration::from_millis(1000);
                }
                None => {
                    add(Duration::ZERO, Event::Remove);
                    // It stops once it can be known, as in any orderly deployment.
                    add(Duration::from_millis(800), Event::Turn(Mode::Down));
                    hosts[host] = Planned { is_member: false, busy_until: now + Duration::from_millis(1000) + lasts };
                }
            }
        }
    }
    entries.sort_by_key(|entry| entry.at);
    entries
}

/// Whether a host is there in the beginning.
pub(super) fn is_first(host: usize) -> bool {
    host.is_multiple_of(2)
}

#[test]
fn a_seed_leads_to_one_schedule_in_which_most_hosts_are_well() {
    let length = Duration::from_secs(600);
    let entries = schedule(7, length);
    let same = schedule(7, length);
    assert_eq!(format!("{entries:?}"), format!("{same:?}"));
    for event in [Event::Add, Event::Remove, Event::Turn(Mode::Silent), Event::Turn(Mode::Down)] {
        assert!(entries.iter().filter(|e| e.event == event).count() > 20, "{event:?}");
    }
}
