//! What a project takes from outside, and where it may send things: secrets, settings, hosts.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use super::providers::Providers;
use crate::diagnostic::{Bag, Diagnostic, Spanned};
use crate::egress::{Secret, parse_url};
use crate::spec::{HostSpec, Project, Text};

/// The secrets, settings and hosts of a project, and which of them something uses.
#[derive(Debug)]
pub(super) struct Outside<'a> {
    project: &'a Project,
    providers: &'a Providers,
    /// The values of the settings; nothing where one is missing.
    env: BTreeMap<&'a str, Option<String>>,
    used_env: RefCell<BTreeSet<String>>,
    used_secrets: RefCell<BTreeSet<String>>,
    /// By their place in the list.
    used_hosts: RefCell<BTreeSet<usize>>,
    /// An address is not known: any host may be its.
    unknown: std::cell::Cell<bool>,
    /// What is missing, and was told.
    told: RefCell<BTreeSet<String>>,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    port: u16,
}

impl<'a> Outside<'a> {
    pub(super) fn new(project: &'a Project, providers: &'a Providers) -> Self {
        let value =
            |name: &str, default: Option<&String>| providers.setting(name).or_else(|| default.cloned());
        let env = project.env.iter();
        Self {
            project,
            providers,
            env: env
                .map(|(name, spec)| (name.value.as_str(), value(&name.value, spec.default.as_ref())))
                .collect(),
            used_env: RefCell::default(),
            used_secrets: RefCell::default(),
            used_hosts: RefCell::default(),
            unknown: std::cell::Cell::default(),
            told: RefCell::default(),
        }
    }

    /// Finds a secret. An error: it is missing, and that weighs.
    pub(super) fn secret(&self, name: &Spanned<String>, bag: &mut Bag) -> Result<Option<Secret>, ()> {
        self.used_secrets.borrow_mut().insert(name.value.clone());
        let severity = match self.providers.secret(&name.value) {
            Ok(secret) => return Ok(secret),
            Err(severity) => severity,
        };
        if self.told.borrow_mut().insert(name.value.clone()) {
            let message = format!("the secret `{}` is not set", name.value);
            let finding =
                Diagnostic::error("M503", message, name.span, "no variable and no file has this name");
            let finding = finding.help(format!(
                "set the variable {}, or put a file of that name into the secrets folder",
                name.value
            ));
            bag.report(Diagnostic { severity, ..finding });
        }
        if severity == crate::diagnostic::Severity::Error { Err(()) } else { Ok(None) }
    }

    /// Returns who sends requests.
    pub(super) fn caller(&self) -> std::sync::Arc<dyn crate::tool::http::Caller> {
        self.providers.caller()
    }

    /// Says whether what is missing keeps a graph from running.
    pub(super) fn is_strict(&self) -> bool {
        self.providers.is_strict()
    }

    /// Returns the names of the settings.
    pub(super) fn settings(&self) -> impl Iterator<Item = &'a str> {
        self.env.keys().copied()
    }

    /// Takes a setting into use; nothing when it has no value.
    pub(super) fn setting(&self, name: &str, bag: &mut Bag) -> Option<String> {
        self.used_env.borrow_mut().insert(name.to_owned());
        let value = self.env.get(name)?;
        if value.is_none()
            && let Some(severity) = self.providers.missing()
            && self.told.borrow_mut().insert(format!("env.{name}"))
            && let Some((declared, _)) = self.project.env.iter().find(|(declared, _)| declared.value == name)
        {
            let message = format!("the setting `{name}` has no value");
            let finding = Diagnostic::error("M503", message, declared.span, "no variable has this name");
            let finding =
                finding.help(format!("set the variable {name}, or write  {name}: {{default: \"…\"}}"));
            bag.report(Diagnostic { severity, ..finding });
        }
        value.clone()
    }

    /// Notes that an address is not known before it is called.
    pub(super) fn unknown_address(&self) {
        self.unknown.set(true);
    }

    /// Checks where a request goes; `text` is what is written, `url` the same with the settings filled in.
    pub(super) fn address(&self, text: &Text, url: &str, bag: &mut Bag) -> Option<Address> {
        let found = parse_url(url);
        let parsed = match &found {
            Ok(url) => url.host_str().zip(url.port_or_known_default()),
            Err(_) => None,
        };
        let Some((host, port)) = parsed else {
            let why = found.err().map_or_else(|| "a URL names a host".to_owned(), |error| error.to_string());
            let finding = Diagnostic::error("M510", "the address cannot be called", text.span, why);
            bag.report(finding.help("write it like  https://shop.example.com/orders"));
            return None;
        };
        let address = Address { host: host.trim_end_matches('.').to_owned(), port };
        let mut listed = false;
        for (n, _) in self.project.hosts.iter().enumerate().filter(|(_, host)| address.is(host)) {
            self.used_hosts.borrow_mut().insert(n);
            listed = true;
        }
        if !listed && !self.project.unsure && !self.project.broken_hosts {
            let shown = address.shown();
            let message = format!("`{shown}` is not listed under `hosts`");
            let finding = Diagnostic::error("M510", message, text.span, "may not be called");
            let finding = match self.project.hosts_key {
                Some(key) => finding.related(key, "lists others"),
                None => finding,
            };
            let entry = if shown.contains(':') { format!("\"{shown}\"") } else { shown };
            bag.report(finding.help(format!("add it in project.yaml:  hosts: {{allow: [{entry}]}}")));
            return None;
        }
        Some(address)
    }

    /// Checks that a secret may go to an address.
    pub(super) fn may_go(&self, name: &Spanned<String>, to: &Address, bag: &mut Bag) -> bool {
        let bound = self.project.secrets.iter().find(|(bound, _)| bound.value == name.value);
        let Some((declared, hosts)) = bound.filter(|(_, hosts)| !hosts.iter().any(|host| to.is(host))) else {
            return true;
        };
        let shown = to.shown();
        let message = format!("the secret `{}` may not go to `{shown}`", name.value);
        let finding = Diagnostic::error("M505", message, name.span, format!("would be sent to {shown}"));
        let list = hosts.iter().map(|host| format!("`{}`", host.host)).collect::<Vec<_>>().join(", ");
        let finding = finding.related(declared.span, format!("bound to {list}"));
        bag.report(
            finding.help(format!("call another host, take another secret, or add `{shown}` to its hosts")),
        );
        false
    }

    /// Returns the settings that nothing uses, and the same of secrets and of hosts.
    pub(super) fn unused(&self) -> Vec<(&'static str, Spanned<String>)> {
        let mut unused = Vec::new();
        let env = self.project.env.iter().map(|(name, _)| name);
        let env = env.filter(|name| !self.used_env.borrow().contains(&name.value));
        unused.extend(env.map(|name| ("setting", name.clone())));
        let secrets = self.project.secrets.iter().map(|(name, _)| name);
        let secrets = secrets.filter(|name| !self.used_secrets.borrow().contains(&name.value));
        unused.extend(secrets.map(|name| ("secret", name.clone())));
        if !self.unknown.get() {
            let hosts = self.project.hosts.iter().enumerate();
            let hosts = hosts.filter(|(n, _)| !self.used_hosts.borrow().contains(n));
            unused.extend(
                hosts.map(|(_, host)| ("host", Spanned { value: host.host.clone(), span: host.span })),
            );
        }
        unused
    }
}

impl Address {
    /// Returns the address of a URL that is known to be one.
    pub(super) fn of(url: &str) -> Option<Self> {
        let url = parse_url(url).ok()?;
        let host = url.host_str()?.trim_end_matches('.').to_owned();
        Some(Self { host, port: url.port_or_known_default()? })
    }

    /// Says whether an entry is for this address; without a port it is for the usual ones.
    fn is(&self, host: &HostSpec) -> bool {
        self.host.eq_ignore_ascii_case(&host.host)
            && host.port.map_or(matches!(self.port, 80 | 443), |port| port == self.port)
    }

    fn shown(&self) -> String {
        match self.port {
            80 | 443 => self.host.clone(),
            port => format!("{}:{port}", self.host),
        }
    }
}
