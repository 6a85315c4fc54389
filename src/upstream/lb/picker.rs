use std::cell::{Cell, RefCell};

use nuncio_config::cluster::{LbPolicy, LeastRequest};
use nuncio_filter_api::Rng;

use super::LbEnv;
use super::edf::Edf;
use super::slow_start;
use crate::host::Host;
use crate::host_set::Candidates;

/// Chooses among hosts that are all as good.
#[derive(Debug)]
pub(super) enum Picker {
    /// Hosts in turn, each as often as another: the place of the next.
    InTurn(Cell<usize>),
    /// By earliest deadline.
    ByWeight(RefCell<Edf>),
    /// By earliest deadline, where a host's weight is divided by its load at the time it was last chosen.
    ByWeightAndLoad {
        edf: RefCell<Edf>,
        bias: f64,
    },
    /// The least busy of so many drawn at random.
    LeastRequest(u32),
    /// The least busy of all.
    LeastOfAll,
    Random,
}

// === impl Picker ===

impl Picker {
    /// For `candidates`, of which there are more than one.
    pub(super) fn new(policy: &LbPolicy, candidates: &Candidates, env: LbEnv<'_>) -> Self {
        match (policy, candidates.is_weighted || slow_start::has_begun(candidates, env)) {
            (LbPolicy::RoundRobin, false) => Self::InTurn(Cell::new(env.rng.below(candidates.len() as u64) as usize)),
            (LbPolicy::RoundRobin, true) => Self::ByWeight(RefCell::new(schedule(candidates, env))),
            (LbPolicy::LeastRequest(policy), true) => {
                Self::ByWeightAndLoad { edf: RefCell::new(schedule(candidates, env)), bias: policy.bias() }
            }
            (LbPolicy::LeastRequest(LeastRequest { choices: Some(choices), .. }), false) => {
                Self::LeastRequest(*choices)
            }
            (LbPolicy::LeastRequest(LeastRequest { choices: None, .. }), false) => Self::LeastOfAll,
            // Tables choose for policies that hash, and the cluster's own balancer where it has one.
            (LbPolicy::Random | LbPolicy::Hashing(_) | LbPolicy::ClusterProvided, _) => Self::Random,
        }
    }

    /// The place in the host set of the next.
    pub(super) fn pick(&self, candidates: &Candidates, env: LbEnv<'_>) -> u32 {
        let places = candidates.places();
        let host = |place: u32| &*env.set.hosts[place as usize];
        match self {
            Self::InTurn(next) => {
                let at = next.get();
                next.set(if at + 1 >= places.len() { 0 } else { at + 1 });
                places[at]
            }
            Self::ByWeight(edf) => edf.borrow_mut().next(|place| weight_now(host(place), env)),
            Self::ByWeightAndLoad { edf, bias } => {
                edf.borrow_mut().next(|place| least_request_weight(host(place), *bias, env))
            }
            Self::LeastRequest(choices) => least_active(places, *choices, env),
            Self::LeastOfAll => least_of_all(places, env),
            Self::Random => random(places, env.rng),
        }
    }
}

fn random(places: &[u32], rng: &Rng) -> u32 {
    places[rng.below(places.len() as u64) as usize]
}

/// The least busy of `choices` hosts drawn with replacement; of equally busy ones the first drawn.
fn least_active(places: &[u32], choices: u32, env: LbEnv<'_>) -> u32 {
    let active = |place: u32| env.set.hosts[place as usize].stats.rq_active.get();
    let mut best = random(places, env.rng);
    for _ in 1..choices {
        let other = random(places, env.rng);
        if active(other) < active(best) {
            best = other;
        }
    }
    best
}

/// The least busy of all; of equally busy ones any.
fn least_of_all(places: &[u32], env: LbEnv<'_>) -> u32 {
    let active = |place: u32| env.set.hosts[place as usize].stats.rq_active.get();
    let (mut best, mut least, mut ties) = (places[0], active(places[0]), 1);
    for &other in &places[1..] {
        let load = active(other);
        if load < least {
            (best, least, ties) = (other, load, 1);
        } else if load == least {
            ties += 1;
            if env.rng.below(ties) == 0 {
                best = other;
            }
        }
    }
    best
}

/// The weight of `host`, less in slow start.
fn weight_now(host: &Host, env: LbEnv<'_>) -> f64 {
    f64::from(host.weight()) * slow_start::part(host, env)
}

fn least_request_weight(host: &Host, bias: f64, env: LbEnv<'_>) -> f64 {
    let (weight, busy) = (weight_now(host, env), (host.stats.rq_active.get() + 1) as f64);
    match bias {
        0.0 => weight,
        1.0 => weight / busy,
        bias => weight / busy.powf(bias),
    }
}

fn schedule(candidates: &Candidates, env: LbEnv<'_>) -> Edf {
    let weight = |place: u32| weight_now(&env.set.hosts[place as usize], env);
    if env.slow_start.is_none()
        && let Some(first) = candidates.first_turns(&env.set.facts)
    {
        return Edf::sharing(first.clone(), weight, env.rng);
    }
    Edf::starting_anywhere(candidates.places(), weight, env.rng)
}
