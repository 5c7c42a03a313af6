//! Files of cases: whose statement is decided how.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use postern_core::policy::{Circumstances, Durability, Freshness, Obligations, Outcome, ReviewAfterwards};
use postern_core::principal::{Actor, Link, PrincipalId};
use postern_core::scope::Scope;
use postern_core::time::Ttl;
use postern_core::wire::timestamp_from_proto;
use postern_core::{KeptClaims, Name, Principal, Timestamp};

use super::world::Database;
use crate::manifest::{API_VERSION, Fault, Faults, Object, obligations, read_file};
use crate::yaml;

/// A Monday at noon: what does not depend on the time says none.
const USUALLY: &str = "2026-01-05T12:00:00Z";

/// How long a review may take where a policy does not say.
const USUAL_REVIEW: u32 = 86_400;

/// One file.
#[derive(Debug)]
pub(crate) struct Cases {
    /// By which policies.
    pub(crate) policies: Vec<PathBuf>,
    pub(crate) all: Vec<Case>,
}

/// One case.
#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) line: usize,
    pub(crate) principal: Principal,
    pub(crate) target: Name,
    /// None: those of the Target among the policies' files.
    pub(crate) labels: Option<BTreeMap<String, String>>,
    pub(crate) database: Database,
    pub(crate) statement: String,
    pub(crate) at: Circumstances,
    /// Policies that permit on request, and were asked for.
    pub(crate) granted: Vec<Name>,
    /// Why they were asked for.
    pub(crate) justification: String,
    pub(crate) expect: Outcome,
    /// By which policies it must be decided; empty: by any.
    pub(crate) by: Vec<Name>,
    /// How it must be bound to run; none: in any way.
    pub(crate) obligations: Option<Obligations>,
}

/// Reads the cases of `path`.
pub(crate) fn read(path: &Path) -> Result<Cases, Vec<Fault>> {
    let shown = path.display().to_string();
    let faults = Faults::new(&shown);
    let text = read_file(path).unwrap_or_else(|message| {
        faults.add(0, "", message);
        String::new()
    });
    let base = path.parent().unwrap_or(Path::new("."));
    let mut cases = Cases { policies: Vec::new(), all: Vec::new() };
    let (documents, syntax) = yaml::parse(&text);
    for document in documents.iter().filter(|document| !document.is_null()) {
        if let Some(top) = Object::new(document, "", &faults) {
            file(top, base, &mut cases);
        }
    }
    if let Some(syntax) = syntax {
        faults.add(syntax.line, "", syntax.message);
    }
    let found = faults.into_list();
    if found.is_empty() { Ok(cases) } else { Err(found) }
}

fn file(mut top: Object<'_>, base: &Path, cases: &mut Cases) {
    let version = top.required("apiVersion");
    if !version.is_empty() && version != API_VERSION {
        top.fault("apiVersion", format!("expected {API_VERSION}, not {version:?}"));
    }
    if top.required("kind") != "PolicyTest" {
        top.fault("kind", "must be PolicyTest");
    }
    let policies = top.strings("policies");
    if policies.is_empty() {
        top.fault("policies", "must name the files or folders of the policies");
    }
    cases.policies.extend(policies.iter().map(|path| base.join(path)));
    let (relations, functions) = (top.strings("relations"), top.strings("functions"));
    let search_path = Some(top.strings("searchPath")).filter(|path| !path.is_empty());
    let search_path = search_path.unwrap_or_else(|| vec!["public".to_owned()]);
    for case in top.objects("cases") {
        let line = case.line();
        if let Some(case) = read_case(case, line, (&relations, &functions, &search_path)) {
            cases.all.push(case);
        }
    }
    top.finish();
}

fn read_case(
    mut from: Object<'_>,
    line: usize,
    (relations, functions, path): (&[String], &[String], &[String]),
) -> Option<Case> {
    let name = from.required("name");
    let principal = from.object("principal").and_then(read_principal);
    if principal.is_none() && !from.has("principal") {
        from.fault("principal", "is required");
    }
    let target = from.required("target");
    let target: Option<Name> = target.parse().map_err(|error| from.fault("target", format!("{error}"))).ok();
    let labels = from.has("labels").then(|| from.map("labels"));
    let statement = from.required("statement");
    let database = from.string("database");
    let at = from.string("at").unwrap_or_else(|| USUALLY.to_owned());
    let now = time(&at).map_err(|error| from.fault("at", error)).ok();
    let source = from
        .string("source")
        .map(|source| source.parse::<IpAddr>().map_err(|error| from.fault("source", error.to_string())).ok());
    let in_transaction = from.bool("inTransaction");
    let estimated = from.number::<u64>("estimatedRows");
    let granted = names(&mut from, "granted");
    let justification = from.string("justification").unwrap_or_default();
    let by = names(&mut from, "by");
    let outcomes = [("permit", Outcome::Permit), ("deny", Outcome::Deny), ("hold", Outcome::Hold)];
    let expect = from.choice("expect", &outcomes);
    if !from.has("expect") {
        from.fault("expect", "is required: permit, deny or hold");
    }
    let obligations = from.object("obligations").map(obligations);
    from.finish();
    let mut circumstances =
        Circumstances::new(now?, Freshness::CONFIRMED).in_transaction(in_transaction).estimated(estimated);
    circumstances.source = match source {
        Some(source) => Some(source?),
        None => None,
    };
    let target = target?;
    let database = Database {
        name: database.unwrap_or_else(|| target.to_string()),
        search_path: path.to_vec(),
        relations: relations.to_vec(),
        functions: functions.to_vec(),
    };
    let principal = principal?;
    Some(Case {
        name,
        line,
        principal,
        target,
        labels,
        database,
        statement,
        at: circumstances,
        granted,
        justification,
        expect: expect?,
        by,
        obligations,
    })
}

/// As in a policy; empty: nothing binds it.
fn obligations(mut from: Object<'_>) -> Obligations {
    let durability = from.string("durability").and_then(|name| {
        let class = Durability::by_name(&name);
        if class.is_none() {
            from.fault("durability", "must be quorum, spooled or buffered");
        }
        class
    });
    let read = Obligations {
        row_limit: from.number::<NonZeroU64>("rowLimit"),
        statement_timeout: from.seconds("statementTimeout").map(Ttl),
        read_only: from.bool("readOnly").unwrap_or_default(),
        masks: names(&mut from, "masks").into_iter().collect(),
        durability,
        reviews: obligations::reviews(&mut from)
            .into_iter()
            .map(|asked| ReviewAfterwards {
                groups: asked.groups.into_iter().collect(),
                within: Ttl(if asked.within_seconds == 0 { USUAL_REVIEW } else { asked.within_seconds }),
            })
            .collect(),
    };
    from.finish();
    read
}

fn names(from: &mut Object<'_>, key: &'static str) -> Vec<Name> {
    let texts = from.strings(key);
    let names = texts.iter().map(|text| text.parse::<Name>());
    names.collect::<Result<_, _>>().unwrap_or_else(|error| {
        from.fault(key, error.to_string());
        Vec::new()
    })
}

fn read_principal(mut from: Object<'_>) -> Option<Principal> {
    let issuer = from.required("issuer");
    let issuer: Option<Name> = issuer.parse().map_err(|error| from.fault("issuer", format!("{error}"))).ok();
    let subject = from.required("subject");
    let groups = from.strings("groups");
    let mut claims = KeptClaims::default();
    for (claim, values) in from.lists("claims") {
        if !claims.keep(&claim, values.iter().map(|value| value.as_str().into()).collect()) {
            from.fault("claims", format!("{claim}: more than is kept of claims"));
        }
    }
    let actors = from.strings("actors");
    let token = from.string("token");
    from.finish();
    Some(principal(PrincipalId { issuer: issuer?, subject: subject.into() }, groups, claims, &actors, token.as_deref()))
}

/// Somebody as a verified token would say it.
pub(crate) fn principal(
    id: PrincipalId,
    groups: Vec<String>,
    claims: KeptClaims,
    actors: &[String],
    token: Option<&str>,
) -> Principal {
    // The login's own token, and one for each who was handed it on.
    let link = |actor: Option<&String>| Link {
        token: "tok_supposed".into(),
        actor: actor.map(|name| Actor { issuer: None, name: name.as_str().into() }),
        scope: Scope::default(),
    };
    let chain = match actors {
        [] => Vec::new(),
        actors => [None].into_iter().chain(actors.iter().map(Some)).map(link).collect(),
    };
    Principal {
        id,
        groups: groups.iter().map(|group| group.as_str().into()).collect(),
        token_id: token.map(Into::into),
        expires_at: None,
        chain,
        claims,
    }
}

/// RFC 3339.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    let wrong = |_| format!("expected a time such as 2026-11-22T08:30:00Z, not {text:?}");
    text.parse().map(|time| timestamp_from_proto(&time)).map_err(wrong)
}
