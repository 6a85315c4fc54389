//! `envoy.filters.http.header_mutation`: changes headers, trailers and the query of requests and responses.

mod query;
mod trailers;

use std::sync::Arc;

use http::StatusCode;
use nuncio_config::header_rules::{Fields, HeaderMutations, MissingHeader};
use nuncio_filter_api::{
    HttpFilter, HttpFilterConfig, HttpFilterRow, LocalReply, LowerCx, PerRoute, Refused, Request, RequestHead,
    Response, Sides, Step, StreamCx,
};
use nuncio_proto::envoy::extensions::filters::http::header_mutation::v3 as proto;
use nuncio_telemetry::ResponseFlag;
use nuncio_telemetry::format::FormatCx;
use smallvec::SmallVec;

use crate::noop::Noop;
use query::QueryMutations;

/// The filter's row in the table.
pub(crate) const ROW: HttpFilterRow = HttpFilterRow {
    name: "envoy.filters.http.header_mutation",
    config: "envoy.extensions.filters.http.header_mutation.v3.HeaderMutation",
    lower,
    per_route: Some(("envoy.extensions.filters.http.header_mutation.v3.HeaderMutationPerRoute", lower_route)),
    sides: Sides::Both,
};

struct Config {
    mutations: Arc<Mutations>,
    /// Order of the routes' mutations, which come after the filter's own.
    routes: Order,
}

/// Which level of a route comes first; the last one wins.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    MostSpecificFirst,
    MostSpecificLast,
}

/// One message of mutations.
#[derive(Default)]
struct Mutations {
    request: HeaderMutations,
    query: QueryMutations,
    response: HeaderMutations,
    request_trailers: HeaderMutations,
    response_trailers: HeaderMutations,
    /// A value depends on the stream, so that formats need to know the time.
    has_formats: bool,
}

fn lower(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<Arc<dyn HttpFilterConfig>, Refused> {
    let proto::HeaderMutation { mutations, most_specific_header_mutations_wins } = crate::decode(bytes, cx)?;
    let mutations = Arc::new(lower_mutations(mutations, cx)?);
    let routes = if most_specific_header_mutations_wins { Order::MostSpecificLast } else { Order::MostSpecificFirst };
    Ok(Arc::new(Config { mutations, routes }))
}

fn lower_route(bytes: &[u8], cx: &mut LowerCx<'_>) -> Result<PerRoute, Refused> {
    let proto::HeaderMutationPerRoute { mutations } = crate::decode(bytes, cx)?;
    Ok(Arc::new(lower_mutations(mutations, cx)?))
}

fn lower_mutations(mutations: Option<proto::Mutations>, cx: &mut LowerCx<'_>) -> Result<Mutations, Refused> {
    Ok(cx.opt("mutations", mutations, Mutations::lower)?.unwrap_or_default())
}

impl Mutations {
    fn lower(message: proto::Mutations, cx: &mut LowerCx<'_>) -> Result<Self, Refused> {
        let proto::Mutations {
            request_mutations,
            query_parameter_mutations,
            response_mutations,
            response_trailers_mutations,
            request_trailers_mutations,
        } = message;
        let request = HeaderMutations::lower(Fields::Request, "request_mutations", request_mutations, cx);
        let query = QueryMutations::lower(query_parameter_mutations, cx);
        let response = HeaderMutations::lower(Fields::Response, "response_mutations", response_mutations, cx);
        let (field, mutations) = ("response_trailers_mutations", response_trailers_mutations);
        let response_trailers = HeaderMutations::lower(Fields::ResponseTrailers, field, mutations, cx);
        let (field, mutations) = ("request_trailers_mutations", request_trailers_mutations);
        let request_trailers = HeaderMutations::lower(Fields::RequestTrailers, field, mutations, cx);
        let (request, query, response) = (request?, query?, response?);
        let (request_trailers, response_trailers) = (request_trailers?, response_trailers?);
        let has_formats = query.has_formats()
            || [&request, &response, &request_trailers, &response_trailers].iter().any(|list| list.has_formats());
        Ok(Self { request, query, response, request_trailers, response_trailers, has_formats })
    }

    fn is_empty(&self) -> bool {
        self.request.is_empty()
            && self.query.is_empty()
            && self.response.is_empty()
            && self.request_trailers.is_empty()
            && self.response_trailers.is_empty()
    }
}

impl HttpFilterConfig for Config {
    fn instantiate(self: Arc<Self>, name: &Arc<str>, cx: &StreamCx) -> Box<dyn HttpFilter> {
        let mut layers = Layers::new();
        if let Some(route) = cx.route() {
            route.get().filter_configs(name, &mut |config| layers.extend(config.clone().downcast::<Mutations>().ok()));
        }
        if self.routes == Order::MostSpecificFirst {
            layers.reverse();
        }
        if !self.mutations.is_empty() {
            layers.insert(0, self.mutations.clone());
        }
        layers.retain(|mutations| !mutations.is_empty());
        if layers.is_empty() {
            return Box::new(Noop);
        }
        let has_formats = layers.iter().any(|mutations| mutations.has_formats);
        Box::new(Filter { layers, has_formats })
    }
}

/// The mutations of the filter, then those of the route's levels, in the order in which they are applied.
type Layers = SmallVec<[Arc<Mutations>; 2]>;

struct Filter {
    layers: Layers,
    has_formats: bool,
}

impl HttpFilter for Filter {
    fn request<'a>(&'a mut self, request: &'a mut Request, cx: &'a mut StreamCx) -> Step<'a> {
        let format = self.format(cx);
        for layer in &self.layers {
            if let Err(missing) = layer.request.apply_request(&mut request.head, &format) {
                return Step::Done(Err(request_lacks(missing).into()));
            }
            layer.query.apply(&mut request.head, &format);
        }
        if request.body.may_have_trailers() && self.layers.iter().any(|layer| !layer.request_trailers.is_empty()) {
            let mutate = trailers::of_request(self.layers.clone(), &request.head, cx);
            request.wrap_body(|body| trailers::wrap(body, mutate));
        }
        Step::CONTINUE
    }

    fn response<'a>(
        &'a mut self,
        response: &'a mut Response,
        request: &'a RequestHead,
        cx: &'a mut StreamCx,
    ) -> Step<'a> {
        let format = self.format(cx);
        for layer in &self.layers {
            if let Err(missing) = layer.response.apply_response(&mut response.head, request, &format) {
                return Step::Done(Err(response_lacks(missing).into()));
            }
        }
        if response.body.may_have_trailers() && self.layers.iter().any(|layer| !layer.response_trailers.is_empty()) {
            let mutate = trailers::of_response(self.layers.clone(), request, &response.head, cx);
            response.wrap_body(|body| trailers::wrap(body, mutate));
        }
        Step::CONTINUE
    }
}

impl Filter {
    fn format<'a>(&self, cx: &'a StreamCx) -> FormatCx<'a> {
        // The clock is read only where a format may ask for it.
        let now = if self.has_formats { cx.worker.clock.now() } else { cx.info.start };
        FormatCx::new(&cx.info, now, cx.worker.clock.wall(now))
    }
}

/// The router's answer in Envoy, whose encoder finds that the header is missing.
fn request_lacks(MissingHeader(name): MissingHeader) -> LocalReply {
    let details = format!("filter_removed_required_request_headers{{missing_required_header:_{name}}}");
    LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, details)
        .body(format!("missing required header: {name}"))
        .flag(ResponseFlag::DownstreamProtocolError)
}

/// What Envoy's filter manager sends instead of such a response.
fn response_lacks(MissingHeader(name): MissingHeader) -> LocalReply {
    let details = format!("filter_removed_required_response_headers{{missing_required_header:_{name}}}");
    LocalReply::new(StatusCode::BAD_GATEWAY, details).body(format!("missing required header: {name}"))
}

#[cfg(test)]
mod tests;
