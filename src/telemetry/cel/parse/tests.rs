use super::*;

fn fault(text: &str) -> String {
    Expression::parse(text).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn what_is_no_expression_is_refused_where_it_goes_wrong() {
    for (text, expected) in [
        ("", "at byte 0: an expression was expected"),
        ("a b", "at byte 2: the expression goes on where it should end"),
        ("f(1", "at byte 3: \")\" was expected"),
        ("[1, 2", "at byte 5: \"]\" was expected"),
        ("'abc", "at byte 0: a text that does not end"),
        ("'\\q'", "at byte 0: an escape that there is not"),
        ("9223372036854775808", "at byte 0: an expression was expected"),
        ("99999999999999999999", "at byte 0: a number that cannot be"),
        ("a ? b", "at byte 5: \":\" was expected"),
        ("#", "at byte 0: an unknown character"),
        ("T{a: 1}", "at byte 1: messages cannot be made"),
        ("has(a)", "at byte 5: \".\" was expected"),
        ("[1].exists(x, x == 1)", "comprehensions (exists) are not allowed, in Envoy neither"),
        ("string(1)", "there is no function string of 1 arguments"),
        ("re.extract('a', 'b')", "there is no function re.extract of 2 arguments"),
        ("a.matches('(')", "invalid regular expression: regex parse error:\n    (\n    ^\nerror: unclosed group"),
    ] {
        assert_eq!(fault(text), expected, "{text}");
    }
}

#[test]
fn what_would_be_evaluated_too_deep_is_refused() {
    assert!(fault(&format!("{}1{}", "(".repeat(40), ")".repeat(40))).ends_with("too deep"));
    assert!(fault(&format!("a{}", ".b".repeat(300))).ends_with("too deep"));
    assert!(fault(&format!("1{}", "+1".repeat(300))).ends_with("too deep"));
    assert!(fault(&format!("{}true", "!-".repeat(300))).ends_with("expected"));
    assert!(Expression::parse(&format!("1{}", "+1".repeat(200))).is_ok());
}
