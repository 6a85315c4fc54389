//! `envoy.filters.http.set_filter_state`: leaves values for the filters and logs of a request.

use std::sync::Arc;

use nuncio_config::filter_state_value::StateValue;
use nuncio_filter_api::{
    HttpFilter, HttpFilterConfig, HttpFilterRow, LowerCx, PerRoute, Refused, Request, Sides, Step, StreamCx,
};
use nuncio_proto::envoy::extensions::filters::http::set_filter_state::v3::Config as Proto;
use nuncio_telemetry::LifeSpan;
use nuncio_telemetry::format::FormatCx;
use smallvec::SmallVec;

const CONFIG: &str = "envoy.extensions.filters.http.set_filter_state.v3.Config";

/// The filter's row in the table.
pub(crate) const ROW: HttpFilterRow = HttpFilterRow {
    name: "envoy.filters.http.set_filter_state",
    config: CONFIG,
    lower,
    per_route: Some((CONFIG, lower_per_route)),
    sides: Sides::Downstream,
};

struct Config {
    values: Box<[StateValue]>,
    /// The route is looked for again afterwards.
    refreshes_route: bool,
}

/// The values of the filter, then those of the levels of the route, each of which goes over those before it.
struct Filter(SmallVec<[Arc<Config>; 2]>);

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Refused> {
    Ok(Arc::new(Config::lower(bytes, cx)?))
}

fn lower_per_route(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<PerRoute, Refused> {
    Ok(Arc::new(Config::lower(bytes, cx)?))
}

impl Config {
    fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let Proto { on_request_headers, clear_route_cache } = crate::decode(bytes, cx)?;
        let values = cx.each("on_request_headers", on_request_headers, |value, cx| {
            let value = StateValue::lower(value, cx)?;
            match value.is_shared() {
                // Connections to hosts are shared by requests, which would have to part by it.
                true => Err(cx.at("shared_with_upstream", |cx| cx.not_implemented("sharing what a request leaves"))),
                false => Ok(value),
            }
        });
        Ok(Self { values: values?.into(), refreshes_route: clear_route_cache })
    }

    fn leave(&self, request: &Request, cx: &StreamCx) {
        let now = cx.worker.clock.now();
        for value in &self.values {
            let mut format = FormatCx::new(&cx.info, now, cx.worker.clock.wall(now));
            format.request = Some(request.head.view());
            value.leave(&format, LifeSpan::FilterChain, || cx.info.filter_state.borrow_mut());
        }
    }
}

impl HttpFilterConfig for Config {
    fn instantiate(self: Arc<Self>, name: &Arc<str>, cx: &StreamCx) -> Box<dyn HttpFilter> {
        let mut layers = SmallVec::from_iter([self]);
        if let Some(route) = cx.route() {
            route.get().filter_configs(name, &mut |config| layers.extend(config.clone().downcast::<Self>().ok()));
        }
        Box::new(Filter(layers))
    }
}

impl HttpFilter for Filter {
    fn request<'a>(&'a mut self, request: &'a mut Request, cx: &'a mut StreamCx) -> Step<'a> {
        let Self(layers) = self;
        layers.iter().for_each(|layer| layer.leave(request, cx));
        // Envoy: what the filter itself says of this holds.
        if layers.first().is_some_and(|own| own.refreshes_route) {
            cx.refresh_route(&request.head);
        }
        Step::CONTINUE
    }
}

#[cfg(test)]
mod tests {
    use nuncio_filter_api::testing::{Harness, env, lower as lower_row, request};
    use nuncio_proto::envoy::config::core::v3 as core;
    use nuncio_proto::envoy::extensions::filters::common::set_filter_state::v3 as common;
    use prost::Message;

    use super::*;

    fn config(key: &str, factory: &str, format: &str, shared: i32) -> Proto {
        use common::filter_state_value::{Key, Value};
        use core::substitution_format_string::Format;
        let source = core::DataSource {
            watched_directory: None,
            specifier: Some(core::data_source::Specifier::InlineString(format.to_owned())),
        };
        let format = core::SubstitutionFormatString {
            format: Some(Format::TextFormatSource(source)),
            ..core::SubstitutionFormatString::default()
        };
        let value = common::FilterStateValue {
            factory_key: factory.to_owned(),
            shared_with_upstream: shared,
            key: Some(Key::ObjectKey(key.to_owned())),
            value: Some(Value::FormatString(format)),
            ..common::FilterStateValue::default()
        };
        Proto { on_request_headers: vec![value], clear_route_cache: false }
    }

    #[test]
    fn what_is_shared_with_hosts_is_refused_by_name() {
        let message = config("a", "envoy.string", "b", 1).encode_to_vec();
        let refused = lower_row(&ROW, &message, &env()).err().expect("is refused");
        assert!(refused[0].to_string().contains("on_request_headers[0].shared_with_upstream"), "{}", refused[0]);
    }

    #[tokio::test]
    async fn values_of_requests_are_left_and_the_route_goes_over_them() {
        let own = config("a", "envoy.string", "%REQ(x)%", 0).encode_to_vec();
        let route = config("b", "envoy.string", "%FILTER_STATE(a:PLAIN)%!", 0).encode_to_vec();
        let harness = Harness::new(&ROW, &own).per_route(&route);
        let request = request(http::Method::GET, "/", &["x: y"]);
        let mut exchange = harness.stream(&request.head);
        assert!(exchange.request(request).await.is_ok());
        let state = exchange.cx.info.filter_state.borrow();
        let text = |key: &str| state.get(key).and_then(|value| value.text().map(|text| text.into_owned()));
        assert_eq!((text("a").as_deref(), text("b").as_deref()), (Some("y"), Some("y!")));
    }
}
