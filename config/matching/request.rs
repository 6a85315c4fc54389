//! Trees that choose among several of something by all of a request.

use std::fmt;

use nuncio_filter_api::{LowerCx, Refused, RequestHead};
use nuncio_proto::google::protobuf::Any;
use nuncio_proto::xds::r#type::matcher::v3::Matcher;
use nuncio_telemetry::StreamInfo;

use super::{Inputs, Tree, TreeRules};

/// A tree of matchers whose leaves are these.
pub struct RequestMatcher<T> {
    tree: Tree,
    leaves: Box<[T]>,
}

/// What becomes of `keep_matching`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepMatching {
    /// What is found is passed over.
    Allowed,
    /// It is refused.
    Refused,
}

impl<T> RequestMatcher<T> {
    /// Lowers the tree; `lower_leaf` does so with the message of each action.
    pub fn lower(
        message: Matcher,
        keep_matching: KeepMatching,
        mut lower_leaf: impl FnMut(Any, &mut LowerCx<'_>) -> Result<T, Refused>,
        cx: &mut LowerCx<'_>,
    ) -> Result<Self, Refused> {
        let mut leaves = Vec::new();
        let mut leaf = |any: Any, cx: &mut LowerCx<'_>| {
            leaves.push(lower_leaf(any, cx)?);
            Ok(u32::try_from(leaves.len() - 1).expect("a configuration has fewer than 2^32 actions"))
        };
        let keep_matching = keep_matching == KeepMatching::Allowed;
        let mut rules = TreeRules { inputs: Inputs::Request, keep_matching, leaf: &mut leaf };
        let tree = Tree::lower(message, &mut rules, cx)?;
        Ok(Self { tree, leaves: leaves.into() })
    }

    /// The one for a request; none where nothing matches, or what would is not known yet.
    pub fn find(&self, head: &RequestHead, info: &StreamInfo) -> Option<&T> {
        let found = self.tree.find_for_request(head, info)?;
        self.leaves.get(found as usize)
    }
}

impl<T: fmt::Debug> fmt::Debug for RequestMatcher<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestMatcher").field("leaves", &self.leaves).finish_non_exhaustive()
    }
}
