//! What a value of the runtime means: as a boolean, as a number, as a share.

use std::fmt::Write;

use nuncio_filter_api::RuntimeValue;
use nuncio_proto::google::protobuf::{Struct, Value, value::Kind};

use crate::load::yaml_value;

/// Of a message; `None` where it can be no value.
pub(super) fn of_message(kind: Kind) -> Option<RuntimeValue> {
    match kind {
        Kind::NumberValue(number) => Some(of_number(number, general(number))),
        Kind::BoolValue(flag) => Some(of_flag(flag, flag.to_string())),
        Kind::StringValue(text) => Some(of_text(text)),
        Kind::StructValue(fields) => {
            let mut text = String::new();
            print_struct(&fields, 0, &mut text);
            Some(RuntimeValue { text, share: share(&fields), ..RuntimeValue::default() })
        }
        Kind::NullValue(_) | Kind::ListValue(_) => None,
    }
}

/// Of text in YAML, as files and admin give it; the reason where it is none.
pub(super) fn of_yaml(text: &str) -> Result<RuntimeValue, String> {
    let own = || text.to_owned();
    // Envoy: nothing, and what means nothing, is text alone.
    if text.trim().is_empty() {
        return Ok(RuntimeValue { text: own(), ..RuntimeValue::default() });
    }
    Ok(match yaml_value(text)?.kind {
        Some(Kind::NumberValue(number)) => of_number(number, own()),
        Some(Kind::BoolValue(flag)) => of_flag(flag, own()),
        // Quotes remain, so that what is quoted is no number.
        Some(Kind::StringValue(_)) => of_text(own()),
        Some(Kind::StructValue(fields)) => RuntimeValue { text: own(), share: share(&fields), ..Default::default() },
        Some(Kind::NullValue(_) | Kind::ListValue(_)) | None => RuntimeValue { text: own(), ..Default::default() },
    })
}

fn of_flag(flag: bool, text: String) -> RuntimeValue {
    RuntimeValue { text, flag: Some(flag), ..RuntimeValue::default() }
}

fn of_number(number: f64, text: String) -> RuntimeValue {
    let is_whole = number < f64::from(i32::MAX) && number.trunc() == number;
    RuntimeValue {
        text,
        flag: is_whole.then_some(number != 0.0),
        number: Some(number),
        // The bound itself is the next number beyond, and becomes the greatest that there is.
        integer: (0.0..=u64::MAX as f64).contains(&number).then_some(number as u64),
        share: None,
    }
}

fn of_text(text: String) -> RuntimeValue {
    let trimmed = text.trim_matches(|c: char| c.is_ascii_whitespace());
    match double(trimmed) {
        Some(number) => of_number(number, text),
        None => RuntimeValue { text, ..RuntimeValue::default() },
    }
}

/// Decimal, or hexadecimal with a prefix.
fn double(text: &str) -> Option<f64> {
    let (sign, digits) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(|number| sign * number as f64),
        None if digits.starts_with(['+', '-']) => None,
        None => digits.parse::<f64>().ok().map(|number| sign * number),
    }
}

/// A `FractionalPercent`. Envoy: other fields make it something else, and a numerator that is no number is 0.
fn share(fields: &Struct) -> Option<(u32, u32)> {
    let (mut numerator, mut denominator) = (0, 100);
    for (name, value) in &fields.fields {
        match (&**name, &value.kind) {
            ("numerator", Some(Kind::NumberValue(number))) => numerator = wrapping(*number),
            ("numerator", _) => {}
            ("denominator", Some(Kind::StringValue(text))) => {
                denominator = match &**text {
                    "HUNDRED" => 100,
                    "TEN_THOUSAND" => 10_000,
                    "MILLION" => 1_000_000,
                    _ => return None,
                }
            }
            _ => return None,
        }
    }
    Some((numerator, denominator))
}

/// As a conversion in C has it, by which a numerator below 0 is a large one.
fn wrapping(number: f64) -> u32 {
    number as i64 as u32
}

/// As C's `%g` prints a number: six digits that count, and an exponent where there are more.
fn general(number: f64) -> String {
    if !number.is_finite() || number == 0.0 {
        return if number == 0.0 && number.is_sign_negative() { "-0".to_owned() } else { number.to_string() };
    }
    let scientific = format!("{number:.5e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    let short = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match exponent {
        -4..6 => short(&format!("{number:.*}", usize::try_from(5 - exponent).unwrap_or_default())),
        _ => format!("{}e{}{:02}", short(mantissa), if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

/// In the text format of protobuf, as Envoy shows structs.
fn print_struct(fields: &Struct, depth: usize, out: &mut String) {
    let mut sorted: Vec<_> = fields.fields.iter().collect();
    sorted.sort_by_key(|(name, _)| *name);
    let pad = " ".repeat(depth);
    for (name, value) in sorted {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{pad}fields {{\n{pad}  key: {name:?}\n{pad}  value {{");
        print_value(value, depth + 4, out);
        let _ = writeln!(out, "{pad}  }}\n{pad}}}");
    }
}

fn print_value(value: &Value, depth: usize, out: &mut String) {
    let pad = " ".repeat(depth);
    let _ = match &value.kind {
        None => Ok(()),
        Some(Kind::NullValue(_)) => writeln!(out, "{pad}null_value: NULL_VALUE"),
        Some(Kind::NumberValue(number)) => writeln!(out, "{pad}number_value: {number}"),
        Some(Kind::StringValue(text)) => writeln!(out, "{pad}string_value: {text:?}"),
        Some(Kind::BoolValue(flag)) => writeln!(out, "{pad}bool_value: {flag}"),
        Some(Kind::StructValue(fields)) => {
            let _ = writeln!(out, "{pad}struct_value {{");
            print_struct(fields, depth + 2, out);
            writeln!(out, "{pad}}}")
        }
        Some(Kind::ListValue(list)) => {
            let _ = writeln!(out, "{pad}list_value {{");
            for value in &list.values {
                let _ = writeln!(out, "{pad}  values {{");
                print_value(value, depth + 4, out);
                let _ = writeln!(out, "{pad}  }}");
            }
            writeln!(out, "{pad}}}")
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn integer(text: &str) -> Option<u64> {
        of_text(text.to_owned()).integer
    }

    #[test]
    fn text_is_a_number_where_it_reads_like_one() {
        for (text, expected) in [
            ("100", Some(100)),
            (" 100 ", Some(100)),
            ("+100", Some(100)),
            ("0x64", Some(100)),
            ("1e2", Some(100)),
            ("99.9", Some(99)),
            ("18446744073709551616", Some(u64::MAX)),
            ("1e20", None),
            ("-1", None),
            ("inf", None),
            ("nan", None),
            ("", None),
            ("true", None),
            ("100%", None),
        ] {
            assert_eq!(integer(text), expected, "{text}");
        }
        // Envoy: what is quoted is no boolean, whatever it says.
        assert_eq!((of_text("true".to_owned()).flag, of_text("false".to_owned()).flag), (None, None));
        assert_eq!((of_text("2".to_owned()).flag, of_text("0.5".to_owned()).flag), (Some(true), None));
    }

    #[test]
    fn yaml_of_files_and_admin_is_read_as_such() {
        let share = |text: &str| of_yaml(text).unwrap().share;
        assert_eq!(share("numerator: 5\ndenominator: MILLION"), Some((5, 1_000_000)));
        assert_eq!(share("{}"), Some((0, 100)));
        assert_eq!(share("{numerator: 1, foo: 2}"), None);
        assert_eq!(share("{numerator: 1, denominator: 2}"), None);
        assert_eq!(share("{numerator: \"1\"}"), Some((0, 100)));
        assert_eq!(of_yaml("100 # c").unwrap().integer, Some(100));
        assert_eq!(of_yaml("\"100\"").unwrap().integer, None);
        assert_eq!(of_yaml("1.0e2").unwrap().integer, Some(100));
        assert_eq!(of_yaml("yes").unwrap().flag, Some(true));
        assert_eq!(of_yaml("[1]").unwrap(), RuntimeValue { text: "[1]".to_owned(), ..RuntimeValue::default() });
        assert_eq!(of_yaml("").unwrap(), RuntimeValue::default());
        assert!(of_yaml("hello: [").is_err());
    }

    #[test]
    fn numbers_are_shown_with_six_digits() {
        for (number, expected) in
            [(5.0, "5"), (-0.0, "-0"), (2.5, "2.5"), (1e8, "1e+08"), (123_456_789.0, "1.23457e+08"), (1e-7, "1e-07")]
        {
            assert_eq!(general(number), expected);
        }
    }
}
