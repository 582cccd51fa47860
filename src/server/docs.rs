//! `/docs`: Swagger UI over `/openapi.json`, without a byte from elsewhere.
//!
//! Invariant: the page runs no inline script, so that its policy can forbid all of them.

use std::sync::LazyLock;

use poem::http::{HeaderValue, header};
use poem::{IntoResponse, Response};
use poem_openapi::OpenApiService;

const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

const PAGE: &str = r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>graphloom: the API</title>
<link rel="stylesheet" href="docs/ui.css">
</head>
<body>
<div id="ui"></div>
<script src="docs/ui.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"#;

const START: &str =
    "SwaggerUIBundle({ dom_id: '#ui', url: 'openapi.json', deepLinking: true, filter: false });\n";

/// The style and the script of Swagger UI, taken out of the one page that they come in.
static BUNDLE: LazyLock<(String, String)> = LazyLock::new(|| {
    let page = OpenApiService::new((), "", "").swagger_ui_html();
    let between = |open: &str, close: &str| {
        let rest = page.split_once(open).map_or("", |(_, rest)| rest);
        rest.split_once(close).map_or("", |(inner, _)| inner).to_owned()
    };
    (between("<style charset=\"UTF-8\">", "</style>"), between("<script charset=\"UTF-8\">", "</script>"))
});

/// Answers with the page.
pub(super) fn page() -> Response {
    file("text/html; charset=utf-8", PAGE.into())
}

/// Answers with a file that the page loads.
pub(super) fn asset(name: &str) -> Option<Response> {
    match name {
        "ui.css" => Some(file("text/css; charset=utf-8", BUNDLE.0.clone())),
        "ui.js" => Some(file("text/javascript; charset=utf-8", BUNDLE.1.clone())),
        "start.js" => Some(file("text/javascript; charset=utf-8", START.into())),
        _ => None,
    }
}

fn file(kind: &'static str, body: String) -> Response {
    let mut response = body.with_content_type(kind).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, POLICY);
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_loads_nothing_from_elsewhere() {
        let (style, script) = &*BUNDLE;
        assert!(style.contains(".swagger-ui"), "{}", style.len());
        assert!(script.len() > 1_000_000 && script.contains("SwaggerUIBundle"), "{}", script.len());
        assert!(!PAGE.contains("//"));
        for name in ["ui.css", "ui.js", "start.js"] {
            assert!(PAGE.contains(&format!("docs/{name}")) && asset(name).is_some());
        }
        assert!(asset("../secret").is_none());
    }
}
