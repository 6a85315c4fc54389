//! `stats_config`: which metrics there are, their tags and their buckets.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::metrics::v3 as proto;
use nuncio_proto::envoy::r#type::matcher::v3::ListStringMatcher;
use nuncio_telemetry::stats::{NameMatcher, StatsRules, TagError, TagRules};
use proto::StatsConfig;
use proto::tag_specifier::TagValue;

use crate::matcher::StringMatcher;

pub(super) fn lower(message: StatsConfig, cx: &mut LowerCx<'_>) -> Result<StatsRules, Refused> {
    let StatsConfig {
        stats_tags,
        use_all_default_tags,
        stats_matcher,
        histogram_bucket_settings,
        allow_default_tag_overrides,
    } = message;
    let all = use_all_default_tags.is_none_or(|v| v.value);
    let mut tags = if all { TagRules::default() } else { TagRules::empty() };
    let overrides = allow_default_tag_overrides.is_some_and(|v| v.value);
    let lowered = cx.each("stats_tags", stats_tags, |specifier, cx| lower_tag(specifier, overrides, &mut tags, cx));
    let included = cx.opt("stats_matcher", stats_matcher, lower_matcher);
    let buckets = cx.each("histogram_bucket_settings", histogram_bucket_settings, lower_buckets);
    lowered?;
    // Rules without buckets say how much room Envoy's histograms begin with, which ours need not know.
    let buckets = buckets?.into_iter().filter(|(_, bounds)| !bounds.is_empty()).collect();
    Ok(StatsRules { tags, included: included?.flatten(), buckets })
}

fn lower_tag(
    specifier: proto::TagSpecifier,
    overrides: bool,
    tags: &mut TagRules,
    cx: &mut LowerCx<'_>,
) -> Result<(), Refused> {
    let proto::TagSpecifier { tag_name, tag_value } = specifier;
    // Where two tags have one name, the default one counts.
    if overrides && tag_value.is_some() {
        tags.unwant(&tag_name);
    }
    let added = match tag_value {
        Some(TagValue::Regex(regex)) if !regex.is_empty() => tags.extract(tag_name, &regex),
        Some(TagValue::FixedValue(value)) => tags.fix(tag_name, value),
        None | Some(TagValue::Regex(_)) => tags.want(&tag_name),
    };
    added.map_err(|error| {
        let field = if matches!(error, TagError::Regex(_)) { "regex" } else { "tag_name" };
        cx.at(field, |cx| cx.invalid(error.to_string()))
    })
}

/// `None`: all there are.
fn lower_matcher(message: proto::StatsMatcher, cx: &mut LowerCx<'_>) -> Result<Option<NameMatcher>, Refused> {
    use proto::stats_matcher::StatsMatcher::{ExclusionList, InclusionList, RejectAll};
    Ok(match message.stats_matcher {
        Some(RejectAll(true)) => Some(Box::new(|_| false)),
        Some(ExclusionList(list)) => {
            let excluded = cx.at("exclusion_list", |cx| lower_list(list, cx))?;
            Some(Box::new(move |name| !excluded(name)))
        }
        Some(InclusionList(list)) => Some(cx.at("inclusion_list", |cx| lower_list(list, cx))?),
        // The rules of the message want one.
        Some(RejectAll(false)) | None => None,
    })
}

fn lower_list(list: ListStringMatcher, cx: &mut LowerCx<'_>) -> Result<NameMatcher, Refused> {
    let patterns = cx.each("patterns", list.patterns, StringMatcher::lower)?;
    Ok(Box::new(move |name| patterns.iter().any(|pattern| pattern.matches(name.as_bytes()))))
}

fn lower_buckets(
    message: proto::HistogramBucketSettings,
    cx: &mut LowerCx<'_>,
) -> Result<(NameMatcher, Vec<f64>), Refused> {
    let proto::HistogramBucketSettings { r#match, mut buckets, bins: _ } = message;
    // The rules of the message want one.
    let matcher = cx.at("match", |cx| StringMatcher::lower(r#match.unwrap_or_default(), cx))?;
    buckets.sort_by(f64::total_cmp);
    Ok((Box::new(move |name| matcher.matches(name.as_bytes())), buckets))
}
