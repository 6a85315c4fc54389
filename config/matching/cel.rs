//! From the trees of expressions in the configuration to those that are evaluated.

use nuncio_filter_api::{LowerCx, Refused};
use nuncio_proto::cel::expr as proto;
use nuncio_proto::envoy::config::core::v3::CelExpressionConfig;
use nuncio_proto::google::api::expr::v1alpha1 as deprecated;
use nuncio_proto::xds::r#type::v3::{CelExpression, cel_expression::ExprSpecifier};
use nuncio_proto::xds_matcher::CelMatcher;
use nuncio_telemetry::cel::{Constant, Expr, Expression};
use prost::Message;
use proto::constant::ConstantKind;
use proto::expr::create_struct::entry::KeyKind;
use proto::expr::{Call, CreateStruct, ExprKind, Ident, Select};

use super::required;

/// Lowers the matcher, whose description is for people.
pub(super) fn lower_matcher(message: CelMatcher, cx: &mut LowerCx<'_>) -> Result<Expression, Refused> {
    let CelMatcher { expr_match, description: _ } = message;
    required("expr_match", expr_match, cx, lower)
}

/// Envoy: of several forms the checked one goes before the parsed one, both before their deprecated forms.
#[allow(deprecated)]
fn lower(message: CelExpression, cx: &mut LowerCx<'_>) -> Result<Expression, Refused> {
    let CelExpression { cel_expr_parsed, cel_expr_checked, cel_expr_string, expr_specifier } = message;
    if !cel_expr_string.is_empty() {
        return Err(cx.at("cel_expr_string", |cx| cx.invalid("is no form that a CelMatcher takes, in Envoy neither")));
    }
    let (field, expr) = if let Some(checked) = cel_expr_checked {
        ("cel_expr_checked", checked.expr)
    } else if let Some(parsed) = cel_expr_parsed {
        ("cel_expr_parsed", parsed.expr)
    } else {
        match expr_specifier {
            Some(ExprSpecifier::CheckedExpr(checked)) => {
                ("checked_expr", checked.expr.map(|e| renewed(&e, cx)).transpose()?)
            }
            Some(ExprSpecifier::ParsedExpr(parsed)) => {
                ("parsed_expr", parsed.expr.map(|e| renewed(&e, cx)).transpose()?)
            }
            None => return Err(cx.invalid("an expression is required: cel_expr_checked or cel_expr_parsed")),
        }
    };
    cx.at(field, |cx| required("expr", expr, cx, lower_expr)).map(Expression::new)
}

/// Lowers an expression as the deprecated package has it.
pub(crate) fn lower_deprecated(expr: &deprecated::Expr, cx: &mut LowerCx<'_>) -> Result<Expression, Refused> {
    let expr = renewed(expr, cx)?;
    lower_expr(expr, cx).map(Expression::new)
}

/// The same message, of the package that took its place; their bytes are the same.
fn renewed(expr: &deprecated::Expr, cx: &mut LowerCx<'_>) -> Result<proto::Expr, Refused> {
    proto::Expr::decode(&expr.encode_to_vec()[..]).map_err(|e| cx.invalid(format!("does not decode: {e}")))
}

/// Refuses what changes the meaning of expressions.
pub(crate) fn refuse_options(options: CelExpressionConfig, cx: &mut LowerCx<'_>) -> Result<(), Refused> {
    let CelExpressionConfig { enable_string_conversion, enable_string_concat, enable_string_functions } = options;
    crate::refuse_set!(cx; enable_string_conversion, enable_string_concat, enable_string_functions)
}

/// Loading bounds the depth of messages, so that this recursion is bounded too.
fn lower_expr(message: proto::Expr, cx: &mut LowerCx<'_>) -> Result<Expr, Refused> {
    let proto::Expr { id: _, expr_kind } = message;
    match expr_kind {
        None => Err(cx.invalid("an expression is required")),
        Some(ExprKind::ConstExpr(constant)) => cx.at("const_expr", |cx| lower_constant(constant, cx)),
        Some(ExprKind::IdentExpr(Ident { name })) => Ok(Expr::ident(&name)),
        Some(ExprKind::SelectExpr(select)) => cx.at("select_expr", |cx| {
            let Select { operand, field, test_only } = *select;
            let operand = required("operand", operand, cx, |operand, cx| lower_expr(*operand, cx))?;
            Ok(Expr::select(operand, &field, test_only))
        }),
        Some(ExprKind::CallExpr(call)) => cx.at("call_expr", |cx| lower_call(*call, cx)),
        Some(ExprKind::ListExpr(list)) => cx.at("list_expr", |cx| {
            cx.unsupported("optional_indices", &list.optional_indices)?;
            cx.each("elements", list.elements, lower_expr).map(Expr::list)
        }),
        Some(ExprKind::StructExpr(entries)) => cx.at("struct_expr", |cx| lower_map(entries, cx)),
        // Envoy evaluates none.
        Some(ExprKind::ComprehensionExpr(_)) => {
            Err(cx.at("comprehension_expr", |cx| cx.invalid("comprehensions are not allowed, in Envoy neither")))
        }
    }
}

fn lower_call(call: Call, cx: &mut LowerCx<'_>) -> Result<Expr, Refused> {
    let Call { target, function, args } = call;
    let target = cx.opt("target", target, |target, cx| lower_expr(*target, cx));
    let args = cx.each("args", args, lower_expr);
    let arguments = target?.into_iter().chain(args?).collect();
    Expr::call(&function, arguments).map_err(|e| cx.at("function", |cx| cx.invalid(e.to_string())))
}

fn lower_map(message: CreateStruct, cx: &mut LowerCx<'_>) -> Result<Expr, Refused> {
    let CreateStruct { message_name, entries } = message;
    cx.unsupported("message_name", &message_name)?;
    let entries = cx.each("entries", entries, |entry, cx| {
        cx.unsupported("optional_entry", &entry.optional_entry)?;
        let key = match entry.key_kind {
            Some(KeyKind::MapKey(key)) => cx.at("map_key", |cx| lower_expr(key, cx)),
            Some(KeyKind::FieldKey(key)) => cx.unsupported("field_key", &key).and(Err(Refused)),
            None => Err(cx.invalid("map_key is required")),
        };
        let value = required("value", entry.value, cx, lower_expr);
        Ok((key?, value?))
    });
    entries.map(Expr::map)
}

#[allow(deprecated)]
fn lower_constant(constant: proto::Constant, cx: &mut LowerCx<'_>) -> Result<Expr, Refused> {
    let constant = match constant.constant_kind {
        None => return Err(cx.invalid("a value is required")),
        Some(ConstantKind::NullValue(_)) => Constant::Null,
        Some(ConstantKind::BoolValue(b)) => Constant::Bool(b),
        Some(ConstantKind::Int64Value(n)) => Constant::Int(n),
        Some(ConstantKind::Uint64Value(n)) => Constant::Uint(n),
        Some(ConstantKind::DoubleValue(n)) => Constant::Double(n),
        Some(ConstantKind::StringValue(s)) => Constant::String(s.into()),
        Some(ConstantKind::BytesValue(b)) => Constant::Bytes(b.into()),
        Some(ConstantKind::DurationValue(d)) => Constant::Duration(nanos(d.seconds, d.nanos)),
        Some(ConstantKind::TimestampValue(t)) => Constant::Timestamp(nanos(t.seconds, t.nanos)),
    };
    Ok(Expr::constant(constant))
}

fn nanos(seconds: i64, nanos: i32) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}
