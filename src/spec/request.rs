//! Requests as written, of `http` nodes and of tools.

use super::fields::Fields;
use super::grammar;
use super::reader::Reader;
use super::text::Text;
use super::tree::{Node, Tree};
use crate::diagnostic::{Diagnostic, Span, Spanned};

/// A request.
#[derive(Debug, Clone)]
pub struct RequestSpec {
    /// `GET` and the like.
    pub method: Option<Spanned<String>>,
    /// The address.
    pub url: Option<Text>,
    /// The headers.
    pub headers: Vec<(Spanned<String>, HeaderSpec)>,
    /// The body, with the place of the word.
    pub body: Option<(Span, Text)>,
    /// How it is signed in.
    pub auth: Option<AuthSpec>,
}

/// The value of a header.
#[derive(Debug, Clone)]
pub enum HeaderSpec {
    /// A template.
    Text(Text),
    /// The name of a secret.
    Secret(Spanned<String>),
}

/// How a request is signed in.
#[derive(Debug, Clone)]
pub enum AuthSpec {
    /// `Authorization: Bearer`, with the name of the secret.
    Bearer(Spanned<String>),
    /// `Authorization: Basic`.
    Basic {
        /// The user.
        user: Text,
        /// The name of the secret.
        password: Spanned<String>,
    },
    /// A header, with the name of the secret.
    Header(Spanned<String>, Spanned<String>),
}

impl RequestSpec {
    /// Returns the names of the secrets that it carries.
    pub fn secrets(&self) -> Vec<&Spanned<String>> {
        let headers = self.headers.iter().filter_map(|(_, value)| match value {
            HeaderSpec::Secret(name) => Some(name),
            HeaderSpec::Text(_) => None,
        });
        let auth = self.auth.iter().map(|auth| match auth {
            AuthSpec::Bearer(name) | AuthSpec::Basic { password: name, .. } | AuthSpec::Header(_, name) => {
                name
            }
        });
        headers.chain(auth).collect()
    }

    /// Returns its templates, each with the key that it belongs to.
    pub fn texts(&self) -> Vec<(String, &Text)> {
        let url = self.url.iter().map(|text| ("url".to_owned(), text));
        let headers = self.headers.iter().filter_map(|(name, value)| match value {
            HeaderSpec::Text(text) => Some((format!("headers.{}", name.value), text)),
            HeaderSpec::Secret(_) => None,
        });
        let body = self.body.iter().map(|(_, text)| ("body".to_owned(), text));
        let user = self.auth.iter().filter_map(|auth| match auth {
            AuthSpec::Basic { user, .. } => Some(("auth.user".to_owned(), user)),
            _ => None,
        });
        url.chain(headers).chain(body).chain(user).collect()
    }
}

/// Headers that say where a request goes and where it ends: whoever could write them could send a second request behind
/// the first, or to another host than was checked.
const OF_THE_CONNECTION: [(&str, &str); 9] = [
    ("host", "the host is that of the URL"),
    ("content-length", "the length is that of the body"),
    ("transfer-encoding", "belongs to the connection"),
    ("connection", "belongs to the connection"),
    ("keep-alive", "belongs to the connection"),
    ("proxy-connection", "belongs to the connection"),
    ("te", "belongs to the connection"),
    ("trailer", "belongs to the connection"),
    ("upgrade", "belongs to the connection"),
];

/// Finds `${NAME}`, which other tools fill in from the environment.
fn variable(text: &str) -> Option<(std::ops::Range<usize>, String)> {
    text.match_indices("${").find_map(|(at, _)| {
        let end = at + text[at..].find('}')?;
        let name = text[at + 2..end].trim();
        let upper = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        (!name.is_empty() && name.bytes().all(upper)).then(|| (at..end + 1, name.to_owned()))
    })
}

/// Says whether the text of a header is a key, by the name of the header and by what keys look like.
fn is_key(header: &str, value: &str, signs_in: bool) -> bool {
    const SECRET: [&str; 9] =
        ["key", "apikey", "token", "secret", "password", "auth", "authorization", "cookie", "signature"];
    let header = header.to_ascii_lowercase();
    let named = signs_in || header.split(['-', '_']).any(|word| SECRET.contains(&word));
    // An idempotency key is no secret.
    let harmless = header.contains("idempotency");
    let letters = |b: u8| b.is_ascii_alphanumeric() || b"+/=_-.~:".contains(&b);
    let long = value.len() >= if signs_in { 8 } else { 16 };
    let mixed = signs_in
        || (value.bytes().any(|b| b.is_ascii_digit()) && value.bytes().any(|b| b.is_ascii_alphabetic()));
    named && !harmless && long && mixed && value.bytes().all(letters)
}

impl Reader<'_> {
    /// Reads the keys of a request.
    pub(super) fn request(&mut self, fields: &mut Fields<'_>, at: Span) -> RequestSpec {
        let method = fields.take("method").and_then(|node| self.name(node, "a method"));
        let url = fields.require(self, "url", "url: \"https://shop.example.com/orders\"", at);
        let url = url.and_then(|node| self.text(node, "a URL"));
        let headers = fields.take("headers").map(|node| self.headers(node)).unwrap_or_default();
        let body = fields.take_entry("body").and_then(|(span, node)| {
            if let Tree::Map(_) | Tree::Seq(_) = node.tree
                && !Self::is_secret(node)
            {
                let message = format!("expected a text, found {}", node.sort());
                let finding = Diagnostic::error("G105", message, node.span, "the body is a template");
                self.bag
                    .report(finding.help("write JSON as a text:  body: \"{{ {'id': state.id} | tojson }}\""));
                return None;
            }
            Some((span, self.text(node, "a text")?))
        });
        RequestSpec { method, url, headers, body, auth: fields.take("auth").and_then(|node| self.auth(node)) }
    }

    pub(super) fn headers(&mut self, node: &Node) -> Vec<(Spanned<String>, HeaderSpec)> {
        let mut headers = Vec::new();
        for (name, value) in self.names(node, "headers") {
            let fits = self.header(&name);
            let value = match value.tree {
                Tree::Map(_) => self.secret(value).map(HeaderSpec::Secret),
                _ => self
                    .text(value, "a text, or {secret: NAME}")
                    .filter(|text| self.no_key(&name, text))
                    .map(HeaderSpec::Text),
            };
            headers.extend(value.filter(|_| fits).map(|value| (name, value)));
        }
        headers
    }

    /// Refuses a header whose text is a key, or names one in a way that fills nothing in.
    fn no_key(&mut self, name: &Spanned<String>, text: &Text) -> bool {
        if self.bag.is_trusting() {
            return true;
        }
        let signs_in =
            ["authorization", "proxy-authorization"].iter().any(|own| name.value.eq_ignore_ascii_case(own));
        let instead = |secret: &str| match text.value.split_once(' ') {
            Some(("Basic", _)) => format!("auth: {{basic: {{user: NAME, password: {{secret: {secret}}}}}}}"),
            _ if signs_in => format!("auth: {{bearer: {{secret: {secret}}}}}"),
            _ => format!("{}: {{secret: {secret}}}", name.value),
        };
        if let Some((range, variable)) = variable(&text.value) {
            let message = "braces where a secret is due";
            let finding = Diagnostic::error("E105", message, text.locate(range), "nothing is filled in here");
            let finding = finding.help(format!("write  {}", instead(&variable)));
            self.bag.report(finding.note(format!("a setting is no secret:  {{{{ env.{variable} }}}}")));
            return false;
        }
        let from = text.value.find(' ').filter(|_| signs_in).map_or(0, |at| at + 1);
        if !is_key(&name.value, &text.value[from..], signs_in) {
            return true;
        }
        let span = text.locate(from..text.value.len());
        let finding =
            Diagnostic::error("M504", "a key in the file", span, "everybody who reads the file has it");
        self.bag.report(finding.help(format!("write  {}  and set the variable NAME", instead("NAME"))));
        self.bag.mask(span);
        false
    }

    /// Checks the name of a header.
    fn header(&mut self, name: &Spanned<String>) -> bool {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+.^_`|~-".contains(&b);
        if let Some((_, why)) = OF_THE_CONNECTION.iter().find(|(own, _)| name.value.eq_ignore_ascii_case(own))
        {
            let message = format!("the header `{}` cannot be written", name.value);
            let finding = Diagnostic::error("G106", message, name.span, *why);
            self.bag.report(finding.help("leave it out: it is set where the request is sent"));
            return false;
        }
        if !name.value.is_empty() && name.value.bytes().all(token) {
            return true;
        }
        let message = format!("`{}` cannot be the name of a header", name.value);
        let finding = Diagnostic::error("G106", message, name.span, "a header is letters, digits and -");
        self.bag.report(finding.help("write it like `X-Request-Source`"));
        false
    }

    pub(super) fn auth(&mut self, node: &Node) -> Option<AuthSpec> {
        let mut fields = self.fields(node, &grammar::AUTH, "`auth`")?;
        let (bearer, basic) = (fields.take_entry("bearer"), fields.take_entry("basic"));
        let header = fields.take_entry("header");
        let given: Vec<Span> = [bearer, basic, header].into_iter().flatten().map(|(span, _)| span).collect();
        match given.as_slice() {
            [] if !fields.is_odd() => {
                let message = "`auth` needs `bearer`, `basic` or `header`";
                let finding = Diagnostic::error("G104", message, node.span, "how?");
                self.bag.report(finding.help("write  auth: {bearer: {secret: SHOP_TOKEN}}"));
            }
            [first, second, ..] => {
                let finding = Diagnostic::error("G105", "a second way to sign in", *second, "one is enough");
                self.bag.report(finding.related(*first, "the first one").help("keep one of them"));
                return None;
            }
            _ => {}
        }
        let auth = match (bearer, basic, header) {
            (Some((_, node)), ..) => self.secret(node).map(AuthSpec::Bearer),
            (_, Some((_, node)), _) => self.basic(node),
            (.., Some((_, node))) => self.auth_header(node),
            _ => None,
        };
        fields.finish(self, |_| None);
        auth
    }

    fn basic(&mut self, node: &Node) -> Option<AuthSpec> {
        let mut fields = self.fields(node, &grammar::BASIC, "`basic`")?;
        let user = fields.require(self, "user", "user: shop", node.span);
        let user = user.and_then(|node| self.text(node, "a text"));
        let password = fields.require(self, "password", "password: {secret: SHOP_PASSWORD}", node.span);
        let password = password.and_then(|node| self.secret(node));
        fields.finish(self, |_| None);
        Some(AuthSpec::Basic { user: user?, password: password? })
    }

    fn auth_header(&mut self, node: &Node) -> Option<AuthSpec> {
        let entries = self.names(node, "a header and its secret");
        if let [_, (second, _), ..] = entries.as_slice() {
            let finding = Diagnostic::error("G105", "a second header", second.span, "one is enough");
            self.bag.report(finding.help("write further ones under `headers`:  X-Key: {secret: NAME}"));
            return None;
        }
        let (name, value) = entries.into_iter().next()?;
        let secret = self.secret(value);
        self.header(&name).then_some(())?;
        Some(AuthSpec::Header(name, secret?))
    }
}
