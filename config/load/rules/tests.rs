use super::*;
use nuncio_proto::descriptor;
use nuncio_proto::validate as v;
use nuncio_proto::validate::field_rules::Type;
use nuncio_proto::validate::string_rules::WellKnown;

fn rules(kind: Type) -> ValueRules {
    let options = v::FieldRules { message: None, r#type: Some(kind) };
    compile(options).and_then(|r| r.value).expect("the rule asks for something")
}

fn refusal(rules: &ValueRules, value: Value<'_>) -> String {
    rules.check(value).err().unwrap_or_default()
}

#[test]
fn number_ranges_are_held_and_named_as_envoy_does() {
    let range = |gt, gte, lt, lte| rules(Type::Uint32(v::UInt32Rules { gt, gte, lt, lte, ..Default::default() }));
    for (rules, good, bad, text) in [
        (range(Some(0), None, None, None), 1, 0, "value must be greater than 0"),
        (range(None, Some(1), None, None), 1, 0, "value must be greater than or equal to 1"),
        (range(None, None, Some(5), None), 4, 5, "value must be less than 5"),
        (range(None, None, None, Some(65535)), 65535, 65536, "value must be less than or equal to 65535"),
        (range(None, Some(1), None, Some(100)), 100, 101, "value must be inside range [1, 100]"),
        (range(Some(1), None, Some(100), None), 2, 100, "value must be inside range (1, 100)"),
        (range(Some(10), None, Some(5), None), 11, 7, "value must be outside range [5, 10]"),
    ] {
        assert_eq!(refusal(&rules, Value::Int(good)), "");
        assert_eq!(refusal(&rules, Value::Int(bad)), text);
    }
}

#[test]
fn not_a_number_breaks_every_bound() {
    let percent = rules(Type::Double(v::DoubleRules { gte: Some(0.0), lte: Some(100.0), ..Default::default() }));
    assert_eq!(refusal(&percent, Value::Float(f64::NAN)), "value must be inside range [0, 100]");
    assert_eq!(refusal(&percent, Value::Float(99.5)), "");
}

#[test]
fn lists_and_constants_are_held() {
    let listed = rules(Type::Uint32(v::UInt32Rules { r#in: vec![2, 3], ..Default::default() }));
    assert_eq!(refusal(&listed, Value::Int(4)), "value must be in list [2, 3]");
    let unlisted = rules(Type::Int32(v::Int32Rules { not_in: vec![2], ..Default::default() }));
    assert_eq!(refusal(&unlisted, Value::Int(2)), "value must not be in list [2]");
    let constant = rules(Type::Bool(v::BoolRules { r#const: Some(true) }));
    assert_eq!(refusal(&constant, Value::Bool(false)), "value must equal true");
}

#[test]
fn durations_are_compared_and_shown_in_seconds() {
    let gte = nuncio_proto::google::protobuf::Duration { seconds: 0, nanos: 1_000_000 };
    let rules = rules(Type::Duration(v::DurationRules { gte: Some(gte), ..Default::default() }));
    assert_eq!(refusal(&rules, Value::Time(Nanos(999_999))), "value must be greater than or equal to 0.001s");
    assert_eq!(refusal(&rules, Value::Time(Nanos(1_000_000))), "");
    assert_eq!(Nanos(-1_500_000_000).to_string(), "-1.5s");
}

#[test]
fn string_rules_are_held() {
    let text = |rules: v::StringRules| self::rules(Type::String(rules));
    let default = v::StringRules::default;
    for (rules, good, bad, reason) in [
        (v::StringRules { min_len: Some(1), ..default() }, "a", "", "value length must be at least 1 characters"),
        (v::StringRules { max_len: Some(1), ..default() }, "\u{e9}", "ab", "value length must be at most 1 characters"),
        (v::StringRules { max_bytes: Some(1), ..default() }, "a", "\u{e9}", "value length must be at most 1 bytes"),
        (v::StringRules { len: Some(2), ..default() }, "ab", "a", "value length must be 2 characters"),
        (v::StringRules { prefix: Some("/".into()), ..default() }, "/a", "a", "value does not have prefix \"/\""),
        (v::StringRules { suffix: Some("/".into()), ..default() }, "a/", "a", "value does not have suffix \"/\""),
        (
            v::StringRules { contains: Some("x".into()), ..default() },
            "axb",
            "a",
            "value does not contain substring \"x\"",
        ),
        (v::StringRules { not_contains: Some("x".into()), ..default() }, "a", "x", "value contains substring \"x\""),
        (v::StringRules { r#in: vec!["a".into()], ..default() }, "a", "b", "value must be in list [a]"),
    ] {
        let rules = text(rules);
        assert_eq!(refusal(&rules, Value::Text(good)), "");
        assert_eq!(refusal(&rules, Value::Text(bad)), reason);
    }
    let empty = text(v::StringRules { min_len: Some(3), ignore_empty: Some(true), ..default() });
    assert_eq!(refusal(&empty, Value::Text("")), "");
}

#[test]
fn well_known_formats_are_held() {
    for (format, good, bad) in [
        (WellKnown::Email(true), "Al <al@example.com>", "al@"),
        (WellKnown::Hostname(true), "a-b.example.com.", "-a.com"),
        (WellKnown::Ip(true), "::1", "1.2.3"),
        (WellKnown::Ipv4(true), "1.2.3.4", "::1"),
        (WellKnown::Ipv6(true), "::1", "1.2.3.4"),
        (WellKnown::Uri(true), "http://a/%20", "//a/b"),
        (WellKnown::UriRef(true), "//a/b?c", "a b"),
        (WellKnown::Address(true), "::1", "a_b"),
        (WellKnown::Uuid(true), "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
        (WellKnown::WellKnownRegex(1), ":path", "a b"),
        (WellKnown::WellKnownRegex(2), "a\tb \u{e9}", "a\u{1}"),
    ] {
        let rules = rules(Type::String(v::StringRules { well_known: Some(format), ..Default::default() }));
        assert_eq!(refusal(&rules, Value::Text(good)), "", "{format:?}");
        assert_ne!(refusal(&rules, Value::Text(bad)), "", "{format:?}");
    }
    let loose =
        v::StringRules { well_known: Some(WellKnown::WellKnownRegex(1)), strict: Some(false), ..Default::default() };
    assert_eq!(refusal(&rules(Type::String(loose.clone())), Value::Text("a b\u{1}")), "");
    assert_ne!(refusal(&rules(Type::String(loose)), Value::Text("a\r\n")), "");
}

/// Every rule of every field compiles, patterns among them, and none needs a clock.
#[test]
fn the_rules_of_all_descriptors_compile() {
    fn visit(message: &descriptor::MessageType) -> usize {
        let rules = message.fields.iter().filter_map(|f| f.options.as_ref()?.rules.clone());
        let compiled = rules
            .inspect(|rules| {
                if let Some(Type::Timestamp(t)) = &rules.r#type {
                    assert!(t.lt_now.is_none() && t.gt_now.is_none() && t.within.is_none());
                }
            })
            .filter_map(compile)
            .count();
        compiled + message.messages.iter().map(visit).sum::<usize>()
    }
    let mut files: Vec<usize> = nuncio_proto::type_names().filter_map(descriptor::file_of).collect();
    files.sort_unstable();
    files.dedup();
    let compiled: usize =
        files.into_iter().map(|f| descriptor::file(f).messages.iter().map(visit).sum::<usize>()).sum();
    assert!(compiled > 1000, "{compiled}");
}
