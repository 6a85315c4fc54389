//! What this proxy has of its control planes, as `envoy.service.status.v3.ClientStatusDiscoveryService` tells it. Ours:
//! Envoy offers the same at `/config_dump` alone, while other clients of xDS are asked by this service.

use nuncio_config::load::redacted;
use nuncio_proto::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use nuncio_proto::envoy::service::status::v3::client_config::GenericXdsConfig;
use nuncio_proto::envoy::service::status::v3::{ClientConfig, ClientStatusRequest, ClientStatusResponse};
use nuncio_proto::google::protobuf::Any;
use prost::Message;
use tonic::Status;

use super::Admin;
use super::dump::{any, error_state, timestamp};
use crate::update::{Id, Kind, Record, lock};

/// The method that takes one message, and the one that takes any number.
pub(super) const FETCH: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus";
pub(super) const STREAM: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/StreamClientStatus";

/// Whether resources are told with what is in them.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Contents {
    Told,
    LeftOut,
}

/// The answer to an encoded request.
pub(super) fn answer(admin: &Admin, request: &[u8]) -> Result<Vec<u8>, Status> {
    let request = ClientStatusRequest::decode(request)
        .map_err(|error| Status::invalid_argument(format!("the request does not decode: {error}")))?;
    // node: who asks is told the same whoever it is.
    let ClientStatusRequest { node_matchers, node: _, exclude_resource_contents } = request;
    if !node_matchers.is_empty() {
        return Err(Status::invalid_argument("node_matchers choose among clients, and here is but one"));
    }
    let contents = if exclude_resource_contents { Contents::LeftOut } else { Contents::Told };
    Ok(ClientStatusResponse { config: vec![config(admin, contents)] }.encode_to_vec())
}

fn config(admin: &Admin, contents: Contents) -> ClientConfig {
    let bootstrap = admin.bootstrap();
    let mut all = statics(admin, bootstrap.static_resources.unwrap_or_default(), contents);
    let records = lock(&admin.shared.records);
    let of_record = |(kind, id, record): (Kind, &Id, &Record)| of_record(kind, &id.name, record, contents);
    let mut found: Vec<_> = records.each().map(of_record).collect();
    // What was asked for and did not come yet.
    for target in admin.wanted.borrow().iter() {
        let Some(name) = &target.name else { continue };
        if records.find(target.kind, &Id { name: name.clone(), origin: target.origin.clone() }).is_none() {
            found.push(of(target.kind, name, ClientResourceStatus::Requested));
        }
    }
    found.sort_by(|a, b| (&a.type_url, &a.name).cmp(&(&b.type_url, &b.name)));
    all.extend(found);
    ClientConfig { node: bootstrap.node, generic_xds_configs: all, ..ClientConfig::default() }
}

/// What the bootstrap has itself. Nobody sent it: it has no status.
fn statics(
    admin: &Admin,
    resources: nuncio_proto::envoy::config::bootstrap::v3::bootstrap::StaticResources,
    contents: Contents,
) -> Vec<GenericXdsConfig> {
    let last_updated = Some(timestamp(admin.shared.bootstrap.load().since));
    let config = |name: &str, resource: &Any| GenericXdsConfig {
        type_url: resource.type_url.clone(),
        name: name.to_owned(),
        xds_config: (contents == Contents::Told).then(|| redacted(resource)),
        last_updated,
        is_static_resource: true,
        ..GenericXdsConfig::default()
    };
    let clusters = resources.clusters.iter().map(|cluster| config(&cluster.name, &any(cluster)));
    let listeners = resources.listeners.iter().map(|listener| config(&listener.name, &any(listener)));
    let secrets = resources.secrets.iter().map(|secret| config(&secret.name, &any(secret)));
    clusters.chain(listeners).chain(secrets).collect()
}

fn of(kind: Kind, name: &str, status: ClientResourceStatus) -> GenericXdsConfig {
    GenericXdsConfig {
        type_url: kind.type_url(),
        name: name.to_owned(),
        client_status: status.into(),
        ..GenericXdsConfig::default()
    }
}

fn of_record(kind: Kind, name: &str, record: &Record, contents: Contents) -> GenericXdsConfig {
    let status = match (&record.failed, &record.accepted) {
        (Some(_), _) => ClientResourceStatus::Nacked,
        (None, Some(_)) => ClientResourceStatus::Acked,
        (None, None) => ClientResourceStatus::Requested,
    };
    let accepted = record.accepted.as_ref();
    let told = |any: &Any| (contents == Contents::Told).then(|| redacted(any));
    let error_state = error_state(record).map(|state| UpdateFailureState {
        failed_configuration: state.failed_configuration.as_ref().and_then(told),
        ..state
    });
    GenericXdsConfig {
        version_info: accepted.map(|accepted| accepted.resource.version.clone()).unwrap_or_default(),
        xds_config: accepted.and_then(|accepted| told(&accepted.resource.any)),
        last_updated: accepted.map(|accepted| timestamp(accepted.updated)),
        error_state,
        ..of(kind, name, status)
    }
}
