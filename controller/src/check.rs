//! `sluice check DIR`: every problem in a folder of manifests, told like a compiler tells them.

mod validity;

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::SystemTime;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;
use translate::{Kind, ObjectKey, Settings, Severity, Translation, translate};

use crate::folder::{Finding, Folder};
use crate::standalone::{Output, Source};

/// Reports every problem in a folder of manifests.
///
/// Exits with 0 when there is none, 1 when there are some, 2 when the folder cannot be read or an argument is wrong.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice check deploy/quickstart
  sluice check --class nginx manifests/     # as the manifests of another ingress class
  sluice check -o json manifests/ | jq '.findings[].message'")]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// How to print what was found
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How many files were read.
    pub files: usize,
    /// How many objects they hold.
    pub objects: usize,
    /// What is wrong, in the order of the files.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings there are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|finding| finding.severity == severity).count()
    }
}

/// The command.
pub fn main(args: &Args) -> ExitCode {
    let checked = args
        .source
        .validate()
        .and_then(|()| check(&args.source).map_err(|error| format!("{}: {error}", args.source.dir.display())));
    let report = match checked {
        Ok(report) => report,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    // Whoever closes the pipe early has seen enough.
    let _ = print(&report, args.output, &mut io::stdout().lock());
    if report.count(Severity::Warning) == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// Checks a folder. Fails only when it cannot be listed.
pub fn check(source: &Source) -> io::Result<Report> {
    // As in a cluster: what `run` serves elsewhere conflicts with nothing here.
    let ports = Settings::default().ports;
    let settings = Settings { ports, ..source.settings().map_err(io::Error::other)? };
    let folder = Folder::open(&source.dir, &settings)?;
    let translation = translate(folder.resources(), &settings);
    let mut findings = folder.findings();
    findings.extend(translation.problems.iter().map(|problem| folder.place(problem)));
    findings.extend(untold(&folder, &translation));
    findings.extend(validity::findings(&folder, &translation, SystemTime::now()));
    findings.extend(folder.unserved(&translation));
    findings.sort();
    findings.extend(nothing_served(&folder, &translation, source));
    Ok(Report { files: folder.files(), objects: folder.len(), findings })
}

fn print(report: &Report, output: Output, out: &mut impl Write) -> io::Result<()> {
    if output == Output::Json {
        serde_json::to_writer_pretty(&mut *out, report)?;
        return writeln!(out);
    }
    for finding in &report.findings {
        let severity = if finding.severity == Severity::Notice { "notice: " } else { "" };
        writeln!(out, "{severity}{finding}")?;
    }
    let (problems, notices) = (report.count(Severity::Warning), report.count(Severity::Notice));
    write!(out, "{} in {}: ", many(report.objects, "object"), many(report.files, "file"))?;
    let problems = if problems == 0 { "no problem found".to_owned() } else { many(problems, "problem") };
    let notices = if notices == 0 { String::new() } else { format!(", {}", many(notices, "notice")) };
    writeln!(out, "{problems}{notices}")
}

fn many(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A folder of which nothing is served is not what anybody wants to have checked.
fn nothing_served(folder: &Folder, translation: &Translation, source: &Source) -> Option<Finding> {
    let message = if folder.files() == 0 {
        "there is no manifest (*.yaml, *.yml, *.json) in this folder; name the folder that holds them".to_owned()
    } else if translation.statuses.ingresses.is_empty() && translation.statuses.gateways.is_empty() {
        format!(
            "no Ingress and no Gateway of class {} is in this folder, so nothing is served; name the class with --class",
            source.class
        )
    } else {
        return None;
    };
    Some(Finding::of_folder("NothingServed", message))
}

/// What statuses say is wrong of objects of which no problem tells, and routes that nothing listens for.
fn untold(folder: &Folder, translation: &Translation) -> BTreeSet<Finding> {
    let told: BTreeSet<_> = translation.problems.iter().map(|problem| (problem.kind, &problem.object)).collect();
    let mut findings = BTreeSet::new();
    for (kind, key, field, condition) in conditions(translation) {
        // Served all the same: clients connect once more where it matters.
        let harmless = condition.type_ == "OverlappingTLSConfig";
        if is_bad(condition) && (harmless || !told.contains(&(kind, key))) {
            let message = format!("{}: {}", condition.type_, condition.message.trim_end_matches('.'));
            let severity = if harmless { Severity::Notice } else { Severity::Warning };
            findings.insert(folder.finding(kind, key, &field, &condition.reason, &message, severity));
        }
    }
    let mut astray = |kind, key, field| {
        if !told.contains(&(kind, key)) {
            let message = format!(
                "no parent of this {kind} is a Gateway of Sluice's class in this folder, so nothing serves it; correct the \
                 reference or add the Gateway"
            );
            findings.insert(folder.finding(kind, key, field, "NoParent", &message, Severity::Warning));
        }
    };
    for ((kind, key), _) in translation.statuses.routes.iter().filter(|(_, parents)| parents.is_empty()) {
        astray(*kind, key, "spec.parentRefs");
    }
    for key in folder.resources().listener_sets.keys() {
        if !translation.statuses.listener_sets.contains_key(key) {
            astray(Kind::ListenerSet, key, "spec.parentRef");
        }
    }
    findings
}

/// Every condition of every status, with the object and the field it is about.
fn conditions(translation: &Translation) -> impl Iterator<Item = (Kind, &ObjectKey, String, &Condition)> {
    let statuses = &translation.statuses;
    let classes = statuses.gateway_classes.iter().flat_map(|(key, status)| {
        status.conditions.iter().flatten().map(move |condition| (Kind::GatewayClass, key, String::new(), condition))
    });
    let gateways = statuses.gateways.iter();
    let gateways = gateways.map(|(key, status)| (Kind::Gateway, key, &status.conditions, &status.listeners));
    let sets = statuses.listener_sets.iter();
    let sets = sets.map(|(key, status)| (Kind::ListenerSet, key, &status.conditions, &status.listeners));
    let listening = gateways.chain(sets).flat_map(|(kind, key, conditions, listeners)| {
        let own = conditions.iter().flatten().map(move |condition| (kind, key, String::new(), condition));
        let listeners = listeners.iter().flatten().enumerate().flat_map(move |(index, listener)| {
            let field = format!("spec.listeners[{index}]");
            listener.conditions.iter().map(move |condition| (kind, key, field.clone(), condition))
        });
        own.chain(listeners)
    });
    let routes = statuses.routes.iter().flat_map(|((kind, key), parents)| {
        let conditions = parents.iter().flat_map(|parent| &parent.conditions);
        conditions.map(move |condition| (*kind, key, String::new(), condition))
    });
    let policies = statuses.policies.iter().flat_map(|((kind, key), ancestors)| {
        let conditions = ancestors.iter().flat_map(|ancestor| &ancestor.conditions);
        conditions.map(move |condition| (*kind, key, String::new(), condition))
    });
    classes.chain(listening).chain(routes).chain(policies)
}

/// Most conditions are good when true; these are bad.
fn is_bad(condition: &Condition) -> bool {
    let bad_when = match condition.type_.as_str() {
        "Conflicted" | "OverlappingTLSConfig" | "PartiallyInvalid" => "True",
        _ => "False",
    };
    condition.status == bad_when
}
