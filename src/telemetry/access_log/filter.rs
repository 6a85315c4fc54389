//! Which streams an access log records: `envoy.config.accesslog.v3.AccessLogFilter`.

use std::fmt::Debug;

use serde_json::Value;

use crate::ResponseFlags;
use crate::cel::Expression;
use crate::format::{AccessLogType, FormatCx, RequestView, grpc_status, millis_so_far};

/// A condition on a finished stream. `traceable_filter` is not here: nothing is traced yet.
#[derive(Debug)]
pub enum LogFilter {
    /// The response code; 0 if there is none.
    StatusCode(Comparison),
    /// Milliseconds from the start of the stream to its end, or until now.
    Duration(Comparison),
    /// Not answered by a health-check filter.
    NotHealthCheck,
    /// Any of these flags; any flag at all if the set is empty.
    ResponseFlag(ResponseFlags),
    /// A condition on the request's headers.
    Header(Box<dyn HeaderPredicate>),
    /// A share of the streams.
    Runtime(Sampling),
    /// All of these; as in Envoy the first that refuses ends it.
    And(Vec<LogFilter>),
    /// One of these.
    Or(Vec<LogFilter>),
    /// The gRPC status sent or inferred from the HTTP status.
    GrpcStatus {
        /// A bit for each status that is listed.
        statuses: u32,
        /// Whether the list is of those left out.
        exclude: bool,
    },
    /// A value of dynamic metadata.
    Metadata {
        /// The namespace.
        namespace: String,
        /// The keys down to the value.
        path: Vec<String>,
        /// The condition.
        matcher: Box<dyn MetadataPredicate>,
        /// The answer if there is no such value.
        if_missing: bool,
    },
    /// Why the record is written.
    LogType {
        /// A bit for each [`AccessLogType`] that is listed.
        types: u32,
        /// Whether the list is of those left out.
        exclude: bool,
    },
    /// An expression that is to be true.
    Expression(Expression),
}

/// A `HeaderMatcher`, compiled by whoever reads configuration.
pub trait HeaderPredicate: Debug + Send + Sync {
    /// Whether the request is one that is wanted.
    fn matches(&self, request: &RequestView<'_>) -> bool;

    /// Whether no headers at all are wanted.
    fn matches_nothing(&self) -> bool;
}

/// A `ValueMatcher`, compiled by whoever reads configuration.
pub trait MetadataPredicate: Debug + Send + Sync {
    /// Whether the value is one that is wanted.
    fn matches(&self, value: &Value) -> bool;
}

/// A `ComparisonFilter`.
#[derive(Debug)]
pub struct Comparison {
    /// How.
    pub op: ComparisonOp,
    /// With what, where the runtime has nothing else.
    pub value: u32,
    /// What the runtime has instead.
    pub setting: Option<Box<dyn Setting>>,
}

/// A value of the runtime, found by whoever reads configuration.
pub trait Setting: Debug + Send + Sync {
    /// The number that there is now.
    fn integer(&self) -> Option<u64>;
    /// The share that there is now, as numerator and denominator.
    fn share(&self) -> Option<(u32, u32)>;
}

/// The operators of a `ComparisonFilter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComparisonOp {
    /// `=`
    Equal,
    /// `>=`
    AtLeast,
    /// `<=`
    AtMost,
    /// `!=`
    NotEqual,
}

/// A `RuntimeFilter`.
#[derive(Debug)]
pub struct Sampling {
    /// The share's numerator.
    pub numerator: u32,
    /// The share's denominator: 100, 10,000 or 1,000,000.
    pub denominator: u32,
    /// What the runtime has instead.
    pub setting: Option<Box<dyn Setting>>,
    /// Whether each stream is drawn by itself; otherwise x-request-id decides, the same on every host it passes.
    pub independent: bool,
}

impl LogFilter {
    /// Whether the stream is recorded.
    pub fn accepts(&self, cx: &FormatCx<'_>) -> bool {
        let info = cx.info;
        match self {
            Self::StatusCode(comparison) => comparison.holds(info.response_code.get().into()),
            Self::Duration(comparison) => comparison.holds(millis_so_far(cx)),
            Self::NotHealthCheck => !info.health_check.get(),
            Self::ResponseFlag(wanted) if wanted.is_empty() => !info.flags.get().is_empty(),
            Self::ResponseFlag(wanted) => info.flags.get().iter().any(|flag| wanted.has(flag)),
            Self::Header(predicate) => match &cx.request {
                Some(request) => predicate.matches(request),
                None => predicate.matches_nothing(),
            },
            Self::Runtime(sampling) => sampling.draws(cx),
            Self::And(filters) => filters.iter().all(|f| f.accepts(cx)),
            Self::Or(filters) => filters.iter().any(|f| f.accepts(cx)),
            Self::GrpcStatus { statuses, exclude } => {
                let listed = u32::try_from(grpc_status(cx)).is_ok_and(|code| listed(*statuses, code));
                listed != *exclude
            }
            Self::Metadata { namespace, path, matcher, if_missing } => {
                let metadata = info.metadata.borrow();
                let found = metadata.as_ref().and_then(|m| {
                    let (first, rest) = path.split_first()?;
                    let value = m.get(namespace.as_str())?.get(first)?;
                    rest.iter().try_fold(value, |value, key| value.as_object()?.get(key))
                });
                found.map_or(*if_missing, |value| matcher.matches(value))
            }
            Self::Expression(expression) => expression.matches(&cx.activation()),
            Self::LogType { types, exclude } => listed(*types, cx.log_type as u32) != *exclude,
        }
    }

    /// The set of these log types, for [`LogFilter::LogType`].
    pub fn log_types(types: impl IntoIterator<Item = AccessLogType>) -> u32 {
        types.into_iter().fold(0, |set, t| set | 1 << t as u32)
    }
}

fn listed(set: u32, number: u32) -> bool {
    1_u32.checked_shl(number).is_some_and(|bit| set & bit != 0)
}

impl Comparison {
    fn holds(&self, n: u64) -> bool {
        let value = self.setting.as_ref().and_then(|setting| setting.integer()).unwrap_or(self.value.into());
        match self.op {
            ComparisonOp::Equal => n == value,
            ComparisonOp::AtLeast => n >= value,
            ComparisonOp::AtMost => n <= value,
            ComparisonOp::NotEqual => n != value,
        }
    }
}

impl Sampling {
    fn draws(&self, cx: &FormatCx<'_>) -> bool {
        // Envoy: the first eight digits of the request's UUID are the number that is drawn.
        let id = cx.info.request_id.borrow();
        let pivot =
            id.as_deref().filter(|_| !self.independent).and_then(|id| u64::from_str_radix(id.get(..8)?, 16).ok());
        let number = pivot.unwrap_or_else(|| (cx.random)() as u64);
        let share = self.setting.as_ref().and_then(|setting| setting.share());
        let (numerator, denominator) = share.unwrap_or((self.numerator, self.denominator));
        number % u64::from(denominator.max(1)) < u64::from(numerator)
    }
}

#[cfg(test)]
mod tests;
