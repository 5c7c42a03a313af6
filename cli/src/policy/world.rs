//! Policies and targets, from files or from a cluster, and decisions by them as a gateway would take them.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use postern_core::access::Grant;
use postern_core::action::ObjectKind;
use postern_core::operation::Operation;
use postern_core::policy::{Circumstances, Granted, Obliged, Outcome, Policy, PolicySlice, Verdict};
use postern_core::resource::{Kind, Resource, Spec};
use postern_core::wire::resource::{from_proto, kind_to_proto};
use postern_core::{AccessId, DecisionId, Name, OperationId, Principal, SessionId, Timestamp};
use postern_proto::admin::v1::ListRequest;
use postern_proto::resource::v1 as pb;
use postern_protocols::postgres::analyze::{AnalyzeContext, SessionNames, analyze};
use postern_protocols::postgres::catalog::{CatalogBuilder, CatalogPart};

use crate::client::Client;
use crate::commands::resources::all;
use crate::failure::Failure;
use crate::manifest::Manifest;

/// The longest statement that is read, as gateways have it when they are told nothing else.
const MAX_STATEMENT: usize = 1 << 20;

/// What decisions are taken by.
#[derive(Debug, Default)]
pub(crate) struct World {
    policies: BTreeMap<Name, Arc<Policy>>,
    labels: BTreeMap<Name, BTreeMap<String, String>>,
}

/// What was decided.
#[derive(Clone, Debug)]
pub(crate) struct Decided {
    pub(crate) outcome: Outcome,
    pub(crate) policies: Vec<Name>,
    pub(crate) reason: String,
    /// How it may run only.
    pub(crate) obliged: Obliged,
}

/// What a database has, as far as it is known here.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) search_path: Vec<String>,
    /// `SCHEMA.NAME`, or `SCHEMA.NAME(COLUMN, COLUMN)` where its columns are known, too.
    pub(crate) relations: Vec<String>,
    /// `SCHEMA.NAME`, or `SCHEMA.NAME volatile definer`. Any other is of both kinds.
    pub(crate) functions: Vec<String>,
}

impl Decided {
    pub(crate) fn denied(reason: String) -> Self {
        Self { outcome: Outcome::Deny, policies: Vec::new(), reason, obliged: Obliged::default() }
    }
}

impl World {
    /// Of the objects of files.
    pub(crate) fn of(manifests: &[Manifest]) -> Self {
        let mut world = Self::default();
        for manifest in manifests {
            // What is not valid was told when the files were read.
            if let Ok(resource) = from_proto(manifest.resource.clone()) {
                world.put(resource);
            }
        }
        world
    }

    /// Of a cluster, as the caller may see it.
    pub(crate) async fn of_cluster(client: &Client) -> Result<Self, Failure> {
        let mut world = Self::default();
        for kind in [Kind::Policy, Kind::Target] {
            let request = ListRequest { kind: kind_to_proto(kind).into(), ..ListRequest::default() };
            for resource in all(client, request).await? {
                world.put(read(resource)?);
            }
        }
        Ok(world)
    }

    fn put(&mut self, resource: Resource) {
        let name = resource.metadata.name;
        match resource.spec {
            Spec::Policy(policy) => drop(self.policies.insert(name, Arc::new(policy))),
            Spec::Target(_) => drop(self.labels.insert(name, resource.metadata.labels)),
            _ => {}
        }
    }

    /// With the policies of `other` in the place of those of the same name, or of all.
    pub(crate) fn changed_by(mut self, other: Self, replace_all: bool) -> Self {
        if replace_all {
            self.policies = other.policies;
        } else {
            self.policies.extend(other.policies);
        }
        self.labels.extend(other.labels);
        self
    }

    /// Whether it has the target.
    pub(crate) fn knows(&self, target: &Name) -> bool {
        self.labels.contains_key(target)
    }

    pub(crate) fn has_policy(&self, name: &Name) -> bool {
        self.policies.contains_key(name)
    }

    /// The policies that speak of `principal` on `target`; its labels where they are not those that are known.
    pub(crate) fn slice(
        &self,
        principal: &Principal,
        target: &Name,
        labels: Option<&BTreeMap<String, String>>,
    ) -> PolicySlice {
        let none = BTreeMap::new();
        let labels = labels.or_else(|| self.labels.get(target)).unwrap_or(&none);
        PolicySlice::new(0, &self.policies, principal, target, labels)
    }
}

fn read(resource: pb::Resource) -> Result<Resource, Failure> {
    from_proto(resource).map_err(|faults| {
        let all: Vec<String> = faults.iter().map(|fault| format!("{}: {}", fault.path, fault.message)).collect();
        Failure::failed(format!("the cluster has an object that this version does not know: {}", all.join("; ")))
    })
}

/// Decides `actions`, as a gateway would; a session that is forbidden comes first.
pub(crate) fn decide(slice: &mut PolicySlice, operation: &Operation, at: &Circumstances) -> Decided {
    if let Some((policy, reason)) = slice.forbids_session(at) {
        return Decided { policies: policy.into_iter().cloned().collect(), ..Decided::denied(reason) };
    }
    let record = match slice.decide(operation, DecisionId::new(at.now, 0), at) {
        Verdict::Permit(_, record) => record,
        Verdict::Hold(held) => held.decision,
        Verdict::Deny(denial) => denial.decision,
    };
    Decided { outcome: record.outcome, policies: record.policies, reason: record.reason, obliged: record.obliged }
}

/// As if `policies`, which permit on request, had been granted for that reason.
pub(crate) fn granted(
    slice: PolicySlice,
    (policies, justification): (&[Name], &str),
    principal: &Principal,
    target: &Name,
) -> PolicySlice {
    let grant = |policy: &Name| Grant {
        id: AccessId::new(Timestamp::from_millis(0), 0),
        principal: principal.id.clone(),
        chain: Vec::new(),
        target: target.clone(),
        policy: policy.clone(),
        ends_at: Timestamp::from_millis(u64::MAX),
        reason: justification.into(),
    };
    let grants: Vec<Grant> = policies.iter().map(grant).collect();
    slice.with(Granted::of(&grants, principal, target))
}

/// What a statement does in `database`.
///
/// # Errors
/// Why nobody can tell.
pub(crate) fn operation(text: &str, database: &Database, at: Timestamp) -> Result<Operation, String> {
    let read = |database: &Database| {
        let context = context(database)?;
        analyze(text.as_bytes(), &context, &SessionNames::default()).map_err(|error| error.to_string())
    };
    let mut statement = read(database)?;
    if let (true, Some(schema)) = (database.relations.is_empty(), database.search_path.first()) {
        let objects = statement.actions.iter().map(|action| &action.object);
        let unknown = objects.filter(|object| object.kind == ObjectKind::Relation).filter_map(|object| {
            matches!(object.path.as_slice(), [_, found, _] if **found == *"?").then(|| object.path.last())?
        });
        let relations: Vec<String> = unknown.map(|name| format!("{schema}.{name}")).collect();
        if !relations.is_empty() {
            statement = read(&Database { relations, ..database.clone() })?;
        }
    }
    let text = Bytes::copy_from_slice(text.as_bytes());
    Ok(Operation::new(OperationId::new(at, 0), SessionId::new(at, 0), text, Vec::new(), statement.actions))
}

fn context(database: &Database) -> Result<AnalyzeContext, String> {
    let mut builder = CatalogBuilder::new();
    let mut row = |part, values: &[Option<&str>]| builder.row(part, values).map_err(|error| error.to_string());
    row(CatalogPart::Session, &[Some("postern"), Some("0"), None])?;
    for (place, schema) in (1_u32..).zip(&database.search_path) {
        row(CatalogPart::Session, &[Some("postern"), Some(&place.to_string()), Some(schema)])?;
    }
    let named = database.relations.iter().map(|text| relation(text)).collect::<Result<Vec<_>, _>>()?;
    let schemas = named.iter().map(|(schema, ..)| *schema).chain(database.search_path.iter().map(String::as_str));
    let schemas: std::collections::BTreeSet<&str> = schemas.chain(["pg_catalog", "information_schema"]).collect();
    for schema in schemas {
        row(CatalogPart::Schemas, &[Some(schema)])?;
    }
    for (oid, (schema, name, columns)) in (20_000_u32..).zip(&named) {
        let oid = oid.to_string();
        row(CatalogPart::Relations, &[Some(&oid), Some(schema), Some(name), Some("r")])?;
        for (number, column) in (1_i16..).zip(columns) {
            // Of which type does not matter: nothing is masked here.
            row(CatalogPart::Columns, &[Some(&oid), Some(&number.to_string()), Some(column), Some("25"), Some("0")])?;
        }
    }
    for text in &database.functions {
        let (schema, name, volatile, definer) = function(text)?;
        let flag = |is: bool| Some(if is { "1" } else { "0" });
        let values = [Some(name), Some(schema), flag(false), flag(definer), flag(volatile), flag(false), flag(false)];
        row(CatalogPart::Functions, &values)?;
    }
    Ok(AnalyzeContext::new(&database.name, Arc::new(builder.build()), MAX_STATEMENT))
}

/// `SCHEMA.NAME` and what it is: `volatile`, `definer`, both or neither.
fn function(text: &str) -> Result<(&str, &str, bool, bool), String> {
    let fault = || format!("{text:?} is not SCHEMA.NAME with volatile, definer, both or neither");
    let mut words = text.split_whitespace();
    let (schema, name) = words.next().and_then(|name| name.split_once('.')).ok_or_else(fault)?;
    let (mut volatile, mut definer) = (false, false);
    for word in words {
        match word {
            "volatile" => volatile = true,
            "definer" => definer = true,
            _ => return Err(fault()),
        }
    }
    Ok((schema, name, volatile, definer))
}

/// `SCHEMA.NAME` or `SCHEMA.NAME(COLUMN, COLUMN)`.
fn relation(text: &str) -> Result<(&str, &str, Vec<&str>), String> {
    let fault = || format!("{text:?} is not SCHEMA.NAME or SCHEMA.NAME(COLUMN, COLUMN)");
    let (name, columns) = match text.split_once('(') {
        None => (text, Vec::new()),
        Some((name, columns)) => {
            let columns = columns.strip_suffix(')').ok_or_else(fault)?;
            (name, columns.split(',').map(str::trim).collect())
        }
    };
    let (schema, name) = name.trim().split_once('.').ok_or_else(fault)?;
    if columns.iter().any(|column| column.is_empty()) || columns.len() > 1_600 {
        return Err(fault());
    }
    Ok((schema, name, columns))
}
