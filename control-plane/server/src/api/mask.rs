//! Field masks (google.protobuf.FieldMask): which fields of an object an update takes over.
//!
//! Works on encoded messages: fields are moved whole, so that every field of every kind can be named, and none is forgotten.

use postern_core::resource::FieldFault;
use postern_proto::resource::v1 as pb;
use prost::Message as _;

use super::schema::{SCHEMA, pieces};

/// The type that masks are about.
const RESOURCE: &str = "postern.resource.v1.Resource";
/// Paths in one mask.
const MAX_PATHS: usize = 100;
/// What only the control plane sets.
const FIXED: [&str; 4] = ["metadata.name", "metadata.revision", "metadata.created_at", "metadata.updated_at"];

/// `known` with the fields of `wanted` that `paths` name. No paths, or `*`: labels and specification.
pub(super) fn merge(
    known: &pb::Resource,
    wanted: &pb::Resource,
    paths: &[String],
) -> Result<pb::Resource, Vec<FieldFault>> {
    if paths.len() > MAX_PATHS {
        return Err(vec![FieldFault::new("update_mask", format!("names more than {MAX_PATHS} fields"))]);
    }
    let all = ["metadata.labels".to_owned(), "spec".to_owned()];
    let paths = if paths.is_empty() || paths == ["*"] { &all[..] } else { paths };
    let (mut merged, wanted_bytes) = (known.encode_to_vec(), wanted.encode_to_vec());
    let mut faults = Vec::new();
    for (place, path) in paths.iter().enumerate() {
        let fault = |why: &str| FieldFault::new(format!("update_mask.paths[{place}]"), format!("{path:?} {why}"));
        match numbers(known, path) {
            Err(why) => faults.push(fault(&why)),
            Ok(numbers) => match replaced(&merged, &wanted_bytes, &numbers) {
                Some(bytes) => merged = bytes,
                None => faults.push(fault("cannot be merged")),
            },
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    pb::Resource::decode(merged.as_slice()).map_err(|error| vec![FieldFault::new("update_mask", error.to_string())])
}

/// A path as field numbers. `spec` stands for the one specification that the object has.
fn numbers(known: &pb::Resource, path: &str) -> Result<Vec<u32>, String> {
    if FIXED.contains(&path) || path == "metadata" {
        return Err("cannot be set".to_owned());
    }
    let spec = spec_name(known).ok_or("has no specification")?;
    let (mut numbers, mut message) = (Vec::new(), RESOURCE.to_owned());
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let name = if numbers.is_empty() && part == "spec" { spec } else { part };
        let (number, field) = SCHEMA.field(&message, &snake(name)).ok_or("names no field of this kind of object")?;
        numbers.push(number);
        if parts.peek().is_some() {
            if field.repeated {
                return Err("goes into a list or map: name the whole of it".to_owned());
            }
            message = field.message.clone().ok_or("goes into what is no message")?;
        }
    }
    // Another kind's specification would be a second one.
    if numbers
        .first()
        .is_some_and(|first| *first != 1 && SCHEMA.field(RESOURCE, spec).map(|(spec, _)| spec) != Some(*first))
    {
        return Err("is of another kind of object".to_owned());
    }
    Ok(numbers)
}

/// JSON's names are taken too: `agentPool`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(letter.to_ascii_lowercase());
    }
    out
}

fn spec_name(resource: &pb::Resource) -> Option<&'static str> {
    use pb::resource::Spec;
    Some(match resource.spec.as_ref()? {
        Spec::Issuer(_) => "issuer",
        Spec::Target(_) => "target",
        Spec::Policy(_) => "policy",
        Spec::MaskingRule(_) => "masking_rule",
        Spec::Secret(_) => "secret",
        Spec::Role(_) => "role",
        Spec::RoleBinding(_) => "role_binding",
        Spec::ServiceAccount(_) => "service_account",
        Spec::Webhook(_) => "webhook",
    })
}

/// `base` with the field at `path` as it is in `patch`: set, or gone.
fn replaced(base: &[u8], patch: &[u8], path: &[u32]) -> Option<Vec<u8>> {
    let (first, rest) = path.split_first()?;
    let (mut out, mut inner_base, mut inner_patch) = (Vec::new(), Vec::new(), Vec::new());
    for piece in pieces(base) {
        let piece = piece.ok()?;
        if piece.number != *first {
            out.extend_from_slice(piece.whole);
        } else if !rest.is_empty() {
            // A message that stands twice is one message, merged: so is the concatenation.
            inner_base.extend_from_slice(piece.payload?);
        }
    }
    let mut patched = false;
    for piece in pieces(patch) {
        let piece = piece.ok()?;
        if piece.number == *first {
            patched = true;
            if rest.is_empty() {
                out.extend_from_slice(piece.whole);
            } else {
                inner_patch.extend_from_slice(piece.payload?);
            }
        }
    }
    if !rest.is_empty() && (patched || !inner_base.is_empty()) {
        let inner = replaced(&inner_base, &inner_patch, rest)?;
        prost::encoding::encode_key(*first, prost::encoding::WireType::LengthDelimited, &mut out);
        prost::encoding::encode_varint(u64::try_from(inner.len()).ok()?, &mut out);
        out.extend_from_slice(&inner);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pb::resource::Spec;

    fn target(address: &str, user: &str) -> pb::Resource {
        let spec = pb::TargetSpec {
            protocol: pb::Protocol::Postgres.into(),
            address: address.into(),
            credential: Some(pb::TargetCredential { username: user.into(), ..Default::default() }),
            agent_pool: "lab".into(),
            ..Default::default()
        };
        let metadata = pb::Metadata {
            name: "db".into(),
            labels: [("env".to_owned(), user.to_owned())].into(),
            ..Default::default()
        };
        pb::Resource { metadata: Some(metadata), spec: Some(Spec::Target(spec)) }
    }

    fn merged(paths: &[&str]) -> Result<pb::Resource, Vec<FieldFault>> {
        let mut wanted = target("new:1", "new");
        let Some(Spec::Target(spec)) = &mut wanted.spec else { panic!() };
        spec.agent_pool = String::new();
        let paths: Vec<String> = paths.iter().map(|path| (*path).to_owned()).collect();
        merge(&target("old:1", "old"), &wanted, &paths)
    }

    fn shown(resource: pb::Resource) -> (String, String, String, String) {
        let Some(Spec::Target(spec)) = resource.spec else { panic!() };
        let env = resource.metadata.unwrap().labels["env"].clone();
        (spec.address, spec.credential.unwrap().username, spec.agent_pool, env)
    }

    #[test]
    fn takes_what_is_named_and_nothing_else() {
        let own = |a: &str, u: &str, p: &str, e: &str| (a.to_owned(), u.to_owned(), p.to_owned(), e.to_owned());
        assert_eq!(shown(merged(&["spec.address"]).unwrap()), own("new:1", "old", "lab", "old"));
        assert_eq!(shown(merged(&["target.credential.username"]).unwrap()), own("old:1", "new", "lab", "old"));
        assert_eq!(shown(merged(&["spec.agentPool", "metadata.labels"]).unwrap()), own("old:1", "old", "", "new"));
        for all in [&[][..], &["*"], &["spec", "metadata.labels"]] {
            assert_eq!(shown(merged(all).unwrap()), own("new:1", "new", "", "new"));
        }
    }

    #[test]
    fn refuses_what_it_cannot_take() {
        for bad in [
            "metadata.name",
            "metadata",
            "spec.nothing",
            "policy.actions",
            "spec.address.x",
            "metadata.labels.env",
            "",
            ".",
        ] {
            let faults = merged(&[bad]).unwrap_err();
            assert_eq!(faults[0].path, "update_mask.paths[0]", "{bad}");
        }
    }
}
