//! Counters by status code, which Envoy keeps under several prefixes for each response.

use super::block::Block;
use super::schema::{Kind, Metric, Schema};
use super::scope::Scope;
use std::sync::Arc;

/// `upstream_rq_completed`, `upstream_rq_<class>xx` and `upstream_rq_<code>` of one prefix, each there once counted.
#[derive(Clone)]
pub struct ResponseCodes {
    block: Arc<Block>,
    /// For codes that nobody registered.
    scope: Scope,
}

const fn counter(name: &'static str) -> Metric {
    Metric { name, kind: Kind::Counter, when_used: true }
}

macro_rules! registered {
    ($($code:literal)*) => {
        /// Status codes that IANA registered.
        const CODES: &[u16] = &[$($code),*];
        const METRICS: &[Metric] = &[
            counter("upstream_rq_completed"),
            counter("upstream_rq_1xx"),
            counter("upstream_rq_2xx"),
            counter("upstream_rq_3xx"),
            counter("upstream_rq_4xx"),
            counter("upstream_rq_5xx"),
            $(counter(concat!("upstream_rq_", $code))),*
        ];
    };
}

registered! {
    100 101 102 103 104
    200 201 202 203 204 205 206 207 208 226
    300 301 302 303 304 305 306 307 308
    400 401 402 403 404 405 406 407 408 409 410 411 412 413 414 415 416 417 418
    421 422 423 424 425 426 428 429 431 451
    500 501 502 503 504 505 506 507 508 510 511
}

static SCHEMA: Schema = Schema::new(METRICS);

const COMPLETED: u32 = 0;
/// Position before that of the first class.
const CLASSES: u32 = 0;
const FIRST_CODE: u8 = 6;

/// Position of each code from 100 on; zero where it is not registered.
const POSITIONS: [u8; 412] = {
    let mut positions = [0; 412];
    let mut i = 0;
    while i < CODES.len() {
        positions[CODES[i] as usize - 100] = FIRST_CODE + i as u8;
        i += 1;
    }
    positions
};

impl ResponseCodes {
    pub fn new(scope: &Scope) -> Self {
        Self { block: scope.block(&SCHEMA), scope: scope.clone() }
    }

    /// Counts a response.
    #[inline]
    pub fn charge(&self, status: u16) {
        let class = u32::from(status / 100);
        // Those that are registered are of the five classes.
        match POSITIONS.get(usize::from(status).wrapping_sub(100)) {
            Some(position) if *position != 0 => {
                self.block.inc_each([COMPLETED, CLASSES + class, u32::from(*position)]);
            }
            _ if (1..=5).contains(&class) => {
                self.block.inc_each([COMPLETED, CLASSES + class]);
                self.charge_unregistered(status);
            }
            _ => {
                self.block.inc_each([COMPLETED]);
                self.charge_unregistered(status);
            }
        }
    }

    /// Takes the registry's lock: there are too many possible codes to hold a slot for each, and hardly any is seen.
    #[cold]
    fn charge_unregistered(&self, status: u16) {
        match status {
            100..600 => self.scope.counter(&format!("upstream_rq_{status}")).inc(),
            _ => self.scope.counter("upstream_rq_unknown").inc(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Store;
    use crate::stats::render::{Query, render};

    #[test]
    fn a_response_is_counted_by_code_and_class() {
        let store = Store::new();
        let codes = ResponseCodes::new(&store.scope("cluster.c"));
        [200, 511, 100, 520, 520, 999, 99].into_iter().for_each(|status| codes.charge(status));
        let mut text = String::new();
        render(&store, &Query::default(), &mut text);
        let lines: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("cluster.c.upstream_rq_")).collect();
        assert_eq!(
            lines,
            ["100: 1", "1xx: 1", "200: 1", "2xx: 1", "511: 1", "520: 2", "5xx: 3", "completed: 7", "unknown: 2"]
        );
    }
}
