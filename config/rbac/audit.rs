//! `audit_logging_options`: there is nobody whom decisions are told.
//!
//! The one logger that the API has, which writes to the standard output, is one of gRPC's: Envoy knows no message of it.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::envoy::config::core::v3::TypedExtensionConfig;
use nuncio_proto::envoy::config::rbac::v3::rbac::AuditLoggingOptions;
use nuncio_proto::envoy::config::rbac::v3::rbac::audit_logging_options::{AuditCondition, AuditLoggerConfig};

use crate::protocol::message_name;

/// Refuses the loggers that would be told of something, but for those that may be missing.
pub(super) fn check(options: AuditLoggingOptions, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let AuditLoggingOptions { audit_condition, logger_configs } = options;
    if AuditCondition::try_from(audit_condition) == Ok(AuditCondition::None) {
        return Ok(());
    }
    cx.each("logger_configs", logger_configs, check_logger).map(drop)
}

fn check_logger(logger: AuditLoggerConfig, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let AuditLoggerConfig { audit_logger, is_optional } = logger;
    let TypedExtensionConfig { name: _, typed_config } = audit_logger.unwrap_or_default();
    let any = typed_config.unwrap_or_default();
    let message = message_name(&any);
    if is_optional {
        tracing::info!(path = cx.path(), message, "an audit logger that may be missing is");
        return Ok(());
    }
    Err(cx.at("audit_logger", |cx| cx.not_implemented(format_args!("the audit logger {message}"))))
}
