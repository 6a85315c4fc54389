//! `/stats` as a page: the text, and a form that asks for other parts of it.

use super::{Buckets, Query, Types, text};
use crate::stats::Store;
use std::fmt::Write;

const HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\">
<head>
<title>nuncio stats</title>
<style>body { font-family: sans-serif; } label { margin-right: 16px; }</style>
</head>
<body>
<form action=\"stats\" method=\"get\">
<input type=\"hidden\" name=\"format\" value=\"html\">
";

/// The names under which the parameters ask for them.
const TYPES: [(Types, &str); 5] = [
    (Types::All, "All"),
    (Types::Counters, "Counters"),
    (Types::Gauges, "Gauges"),
    (Types::Histograms, "Histograms"),
    (Types::TextReadouts, "TextReadouts"),
];
const BUCKETS: [(Buckets, &str); 4] = [
    (Buckets::Summary, "summary"),
    (Buckets::Cumulative, "cumulative"),
    (Buckets::Disjoint, "disjoint"),
    (Buckets::Detailed, "detailed"),
];

pub(super) fn render(store: &Store, query: &Query, out: &mut String) {
    out.push_str(HEAD);
    let checked = if query.used_only { " checked" } else { "" };
    let filter = query.filter.as_ref().map_or("", |filter| filter.as_str());
    // Writing to a String cannot fail.
    let _ = writeln!(out, "<label><input type=\"checkbox\" name=\"usedonly\"{checked}> used only</label>");
    let _ = write!(out, "<label>filter <input name=\"filter\" value=\"");
    let _ = writeln!(out, "{}\"></label>", escape_html(filter));
    choice("type", &TYPES, query.types, out);
    choice("histogram_buckets", &BUCKETS, query.buckets, out);
    out.push_str("<button>show</button>\n</form>\n<pre>\n");
    let mut metrics = String::new();
    text::render(store, query, &mut metrics);
    out.push_str(&escape_html(&metrics));
    out.push_str("</pre>\n</body>\n</html>\n");
}

fn choice<T: Copy + PartialEq>(name: &str, values: &[(T, &str)], chosen: T, out: &mut String) {
    let _ = write!(out, "<label>{name} <select name=\"{name}\">");
    for (value, text) in values {
        let selected = if *value == chosen { " selected" } else { "" };
        let _ = write!(out, "<option{selected}>{text}</option>");
    }
    out.push_str("</select></label>\n");
}

/// Text as text of an HTML page, in an attribute too, whatever it contains.
pub fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_shows_the_text_and_what_was_asked_for() {
        let store = Store::new();
        let text = store.scope("a<b").text_readout("c");
        text.set("\"d\"");
        let parameters = [("format", "html"), ("filter", "a<"), ("usedonly", ""), ("type", "TextReadouts")];
        let query = Query::parse(parameters).unwrap();
        let mut page = String::new();
        super::super::render(&store, &query, &mut page);
        assert!(page.contains("<pre>\na&lt;b.c: &quot;&quot;d&quot;&quot;\n</pre>"), "{page}");
        assert!(page.contains("value=\"a&lt;\"") && page.contains("<option selected>TextReadouts"), "{page}");
        assert!(page.contains("name=\"usedonly\" checked"), "{page}");
    }
}
