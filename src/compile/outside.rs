//! What a project takes from outside, and where it may send things: secrets, settings, hosts.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::providers::Providers;
use crate::diagnostic::{Bag, Diagnostic, Severity, Span, Spanned, suggest};
use crate::egress::{Secret, Target, parse_url};
use crate::spec::{HostSpec, Project, Text};
use crate::tool::Tool;
use crate::tool::custom::Registry;
use crate::tool::http::Caller;

/// The secrets, settings and hosts of a project, and which of them something uses.
#[derive(Debug)]
pub(super) struct Outside<'a> {
    project: &'a Project,
    providers: &'a Providers,
    /// Where requests may go.
    hosts: Vec<Host>,
    /// A host cannot be read: one that is not listed may be it.
    broken_hosts: bool,
    /// Where secrets may go.
    secrets: Vec<(&'a Spanned<String>, Vec<Host>)>,
    /// Who sends requests.
    caller: Arc<dyn Caller>,
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

/// An entry of a list of hosts.
#[derive(Debug)]
struct Host {
    /// The host on its port, or on both of the usual ones.
    targets: Vec<Target>,
    /// As it is written.
    name: Spanned<String>,
}

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address(Target);

impl<'a> Outside<'a> {
    pub(super) fn new(project: &'a Project, providers: &'a Providers, bag: &mut Bag) -> Self {
        let hosts: Vec<Host> = project.hosts.iter().filter_map(|host| Host::read(host, bag)).collect();
        let broken_hosts = project.broken_hosts || hosts.len() < project.hosts.len();
        let mut bound = Vec::new();
        for (name, listed) in &project.secrets {
            let read: Vec<Host> = listed.iter().filter_map(|host| Host::read(host, bag)).collect();
            // Where one of its hosts cannot be read, it may go to that.
            if read.len() == listed.len() {
                bound.push((name, read));
            }
        }
        let ports = hosts.iter().filter(|host| host.targets.len() == 1).flat_map(|host| host.targets.clone());
        let caller = providers.caller(ports);
        let value =
            |name: &str, default: Option<&String>| providers.setting(name).or_else(|| default.cloned());
        let env = project.env.iter();
        Self {
            project,
            providers,
            hosts,
            broken_hosts,
            secrets: bound,
            caller,
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

    /// Returns the values of the settings, as far as they are there.
    pub(super) fn values(&self) -> &BTreeMap<&'a str, Option<String>> {
        &self.env
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
        if severity == Severity::Error { Err(()) } else { Ok(None) }
    }

    /// Returns who sends requests.
    pub(super) fn caller(&self) -> Arc<dyn Caller> {
        Arc::clone(&self.caller)
    }

    /// Says whether what is missing keeps a graph from running.
    pub(super) fn is_strict(&self) -> bool {
        self.providers.is_strict()
    }

    /// Returns what the host program has registered.
    pub(super) fn registry(&self) -> Option<&'a Registry> {
        self.providers.registry()
    }

    /// Returns what is called for a registered name.
    pub(super) fn function(&self, name: &str, registered: Option<&Arc<dyn Tool>>) -> Arc<dyn Tool> {
        self.providers.function(name, registered)
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
            && let Some(severity) = self.providers.missing_setting()
            && self.told.borrow_mut().insert(format!("env.{name}"))
            && let Some((declared, _)) = self.project.env.iter().find(|(declared, _)| declared.value == name)
        {
            let message = format!("the setting `{name}` has no value");
            let (label, help) = if self.providers.missing().is_some() {
                ("no variable has this name", format!("set the variable {name}, or write "))
            } else {
                ("tests read no variables, and what takes it fails in them", "write ".to_owned())
            };
            let finding = Diagnostic::error("M503", message, declared.span, label);
            let finding = finding.help(format!("{help} {name}: {{default: \"…\"}}"));
            bag.report(Diagnostic { severity, ..finding });
        }
        value.clone()
    }

    /// Reports a setting that an address begins with, and that has no scheme.
    pub(super) fn no_scheme(&self, name: &str, url: Span, bag: &mut Bag) {
        let Some((declared, spec)) = self.project.env.iter().find(|(declared, _)| declared.value == name)
        else {
            return;
        };
        let message = format!("the setting `{name}` is no address");
        let finding = Diagnostic::error("M510", message, declared.span, "`https://` is missing");
        let finding = finding.related(url, "an address begins with it");
        bag.report(finding.help(match &spec.default {
            Some(default) if self.env.get(name).is_some_and(|value| value.as_ref() == Some(default)) => {
                format!("write  {name}: {{default: \"https://{default}\"}}")
            }
            _ => format!("set the variable {name} to an address such as https://shop.example.com"),
        }));
    }

    /// Notes that an address is not known before it is called.
    pub(super) fn unknown_address(&self) {
        self.unknown.set(true);
    }

    /// Checks that an address is one.
    pub(super) fn callable(text: &Text, url: &str, bag: &mut Bag) -> Option<Address> {
        match parse_url(url).and_then(|url| Target::of(&url)) {
            Ok(target) => Some(Address(target)),
            Err(error) => {
                let why = error.to_string();
                let finding = Diagnostic::error("M510", "the address cannot be called", text.span, why);
                bag.report(finding.help("write it like  https://shop.example.com/orders"));
                None
            }
        }
    }

    /// Checks where a request goes; `text` is what is written, `url` the same with the settings filled in.
    pub(super) fn address(&self, text: &Text, url: &str, bag: &mut Bag) -> Option<Address> {
        let address = Self::callable(text, url, bag)?;
        let mut listed = None;
        for (n, host) in self.hosts.iter().enumerate().filter(|(_, host)| address.is(host)) {
            self.used_hosts.borrow_mut().insert(n);
            listed = Some(host.name.span);
        }
        if listed.is_none() && !self.project.unsure && !self.broken_hosts {
            let shown = address.shown();
            // One entry is missing, however many requests go there.
            if !self.told.borrow_mut().insert(format!("host {shown}")) {
                return None;
            }
            let message = format!("`{shown}` is not listed under `hosts`");
            let finding = Diagnostic::error("M510", message, text.span, "may not be called");
            let near = suggest(&shown, self.hosts.iter().map(|host| host.name.value.as_str()));
            let near = self.hosts.iter().find(|host| Some(host.name.value.as_str()) == near);
            let finding = match (near, self.project.hosts_key) {
                (Some(near), _) => finding.related(near.name.span, "a similar host is listed here"),
                (None, Some(key)) => finding.related(key, "lists others"),
                (None, None) => finding,
            };
            let entry = if shown.contains(':') { format!("\"{shown}\"") } else { shown };
            let near = near.map_or_else(String::new, |near| {
                format!("write both alike, if `{}` is meant; else ", near.name.value)
            });
            bag.report(finding.help(format!("{near}add it in project.yaml:  hosts: {{allow: [{entry}]}}")));
            return None;
        }
        self.may_be_private(&address, text.span, listed, bag).then_some(address)
    }

    /// Reports a host that is not public and that the operator has not allowed; false when that weighs.
    fn may_be_private(&self, to: &Address, at: Span, listed: Option<Span>, bag: &mut Bag) -> bool {
        let Some((what, severity)) = self.providers.private(&to.0) else { return true };
        if self.told.borrow_mut().insert(format!("{}", to.0)) {
            let message = format!("`{}` is no public host, and the operator has not allowed it", to.0);
            let finding = Diagnostic::error("M510", message, at, what);
            let finding = match listed {
                Some(span) => finding.related(span, "listed here, which is for public hosts"),
                None => finding,
            };
            let finding = finding.help(format!(
                "where it runs, set  GRAPHLOOM_ALLOW_PRIVATE={}  or  allow_private  in graphloom.toml",
                to.0
            ));
            bag.report(Diagnostic { severity, ..finding });
        }
        severity != Severity::Error
    }

    /// Checks that a secret may go to an address.
    pub(super) fn may_go(&self, name: &Spanned<String>, to: &Address, bag: &mut Bag) -> bool {
        let bound = self.secrets.iter().find(|(bound, _)| bound.value == name.value);
        let Some((declared, hosts)) = bound.filter(|(_, hosts)| !hosts.iter().any(|host| to.is(host))) else {
            return true;
        };
        let shown = to.shown();
        let message = format!("the secret `{}` may not go to `{shown}`", name.value);
        let finding = Diagnostic::error("M505", message, name.span, format!("would be sent to {shown}"));
        let list = hosts.iter().map(|host| format!("`{}`", host.name.value)).collect::<Vec<_>>().join(", ");
        let finding = finding.related(declared.span, format!("bound to {list}"));
        bag.report(
            finding.help(format!("call another host, take another secret, or add `{shown}` to its hosts")),
        );
        false
    }

    /// Checks that a secret may go to a program: one that is bound to hosts may not.
    pub(super) fn may_go_to_a_program(&self, name: &Spanned<String>, bag: &mut Bag) -> bool {
        let Some((declared, _)) = self.secrets.iter().find(|(bound, _)| bound.value == name.value) else {
            return true;
        };
        let message = format!("the secret `{}` may not go to a program", name.value);
        let finding = Diagnostic::error("M505", message, name.span, "would be seen by the program");
        let finding = finding.related(declared.span, "bound to hosts");
        bag.report(finding.help("take another secret for the program"));
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
            let hosts = self.hosts.iter().enumerate();
            let hosts = hosts.filter(|(n, _)| !self.used_hosts.borrow().contains(n));
            unused.extend(hosts.map(|(_, host)| ("host", host.name.clone())));
        }
        unused
    }
}

impl Host {
    /// Brings an entry into the form that addresses have.
    fn read(spec: &HostSpec, bag: &mut Bag) -> Option<Self> {
        let ports = spec.port.map_or(vec![80, 443], |port| vec![port]);
        let targets =
            ports.into_iter().map(|port| Target::on_port(&spec.host, port)).collect::<Result<_, _>>();
        let name = Spanned { value: spec.host.clone(), span: spec.span };
        let Ok(targets) = targets else {
            let message = format!("`{}` is not a host", spec.host);
            let finding = Diagnostic::error("M510", message, spec.span, "neither a name nor an address");
            bag.report(
                finding.help("write a name, like  kb.example.com , or an address, like  \"[2001:db8::1]\""),
            );
            return None;
        };
        Some(Self { targets, name })
    }
}

impl Address {
    /// Returns the address of a URL that is known to be one.
    pub(super) fn of(url: &str) -> Option<Self> {
        Target::of(&parse_url(url).ok()?).ok().map(Self)
    }

    /// Says whether an entry is for this address.
    fn is(&self, host: &Host) -> bool {
        host.targets.contains(&self.0)
    }

    fn shown(&self) -> String {
        match self.0.port() {
            80 | 443 => self.0.host().to_owned(),
            _ => self.0.to_string(),
        }
    }
}
