//! The list of endpoints, as text and as a page.

use std::fmt::Write;

use nuncio_telemetry::stats::render::escape_html;

use super::Reply;
use super::endpoints::Endpoint;

/// `/help`
pub(super) fn help(endpoints: impl Iterator<Item = &'static Endpoint>) -> Reply {
    Reply::text(help_text(endpoints))
}

/// One line for each endpoint, one more for each of its parameters.
pub(super) fn help_text(endpoints: impl Iterator<Item = &'static Endpoint>) -> String {
    let mut text = "admin commands are:\n".to_owned();
    for Endpoint { path, help, mutates, params, .. } in endpoints {
        let method = if *mutates { " (POST)" } else { "" };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "  {path}{method}: {help}");
        for (name, help) in *params {
            let _ = writeln!(text, "      {name}: {help}");
        }
    }
    text
}

/// `/`
pub(super) fn home(endpoints: impl Iterator<Item = &'static Endpoint>) -> Reply {
    let mut rows = String::new();
    for Endpoint { path, help, mutates, params, .. } in endpoints {
        let path = escape_html(path);
        let button = if *mutates {
            format!("<form action=\"{path}\" method=\"post\"><button>{path}</button></form>")
        } else {
            format!("<a href=\"{path}\">{path}</a>")
        };
        let _ = writeln!(rows, "<tr><td>{button}</td><td>{}</td></tr>", escape_html(help));
        for (name, help) in *params {
            let _ =
                writeln!(rows, "<tr><td class=\"param\">{}</td><td>{}</td></tr>", escape_html(name), escape_html(help));
        }
    }
    Reply::html(format!("{HEAD}{rows}</table>\n</body>\n</html>\n"))
}

const HEAD: &str = "<!DOCTYPE html>
<html lang=\"en\">
<head>
<title>nuncio admin</title>
<style>
body { font-family: sans-serif; }
td { padding: 2px 16px 2px 0; }
td.param { padding-left: 32px; color: #666; }
form { margin: 0; }
button { background: none; border: none; padding: 0; color: #06c; text-decoration: underline; cursor: pointer; font: inherit; }
</style>
</head>
<body>
<table>
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::endpoints::ENDPOINTS;

    #[test]
    fn markup_in_text_is_escaped() {
        assert_eq!(escape_html("<a href='x'>&\""), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;");
    }

    #[test]
    fn every_endpoint_is_in_the_help_and_on_the_page() {
        let (help, home) = (help_text(ENDPOINTS.iter()), home(ENDPOINTS.iter()).body);
        for endpoint in ENDPOINTS {
            assert!(help.contains(&format!("  {}", endpoint.path)), "{}", endpoint.path);
            assert!(home.contains(&format!("\"{}\"", endpoint.path)), "{}", endpoint.path);
        }
    }
}
