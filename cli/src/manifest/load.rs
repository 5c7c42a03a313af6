//! From files to objects.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use postern_core::resource::Kind;
use postern_proto::resource::v1 as pb;

use super::faults::{Fault, Faults, Lines};
use super::object::Object;
use super::{API_VERSION, kinds};
use crate::yaml;

/// The largest file of objects, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// One object as a file has it.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    pub(crate) kind: Kind,
    pub(crate) resource: pb::Resource,
    pub(crate) lines: Lines,
}

/// The objects of all `paths`: files, folders (their `.yaml`, `.yml` and `.cedar` files, by name) and `-` for standard input.
pub(crate) fn load(paths: &[PathBuf]) -> Result<Vec<Manifest>, Vec<Fault>> {
    let (mut manifests, mut faults) = (Vec::new(), Vec::new());
    for path in paths {
        match expand(path) {
            Ok(files) => {
                for file in files {
                    match read_file(&file) {
                        Ok(text) => {
                            let base = file.parent().filter(|_| !is_stdin(&file)).unwrap_or(Path::new("."));
                            match is_cedar(&file) {
                                true => super::cedar::parse(&shown(&file), &text, &mut manifests, &mut faults),
                                false => parse(&shown(&file), &text, base, &mut manifests, &mut faults),
                            }
                        }
                        Err(message) => faults.push(whole(&file, message)),
                    }
                }
            }
            Err(message) => faults.push(whole(path, message)),
        }
    }
    twice(&manifests, &mut faults);
    if faults.is_empty() { Ok(manifests) } else { Err(faults) }
}

fn is_cedar(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "cedar")
}

fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == "-"
}

fn shown(path: &Path) -> String {
    if is_stdin(path) { "<stdin>".to_owned() } else { path.display().to_string() }
}

fn whole(path: &Path, message: String) -> Fault {
    Fault { file: shown(path).into(), line: 0, path: String::new(), message }
}

fn expand(path: &Path) -> Result<Vec<PathBuf>, String> {
    if is_stdin(path) || !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries = std::fs::read_dir(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let entries = entries.map_err(|error| format!("cannot list it: {error}"))?;
    let is_ours = |file: &PathBuf| {
        file.is_file()
            && (is_cedar(file) || file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"))
    };
    let mut files: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).filter(is_ours).collect();
    files.sort();
    if files.is_empty() { Err("the folder has no .yaml and no .cedar file".to_owned()) } else { Ok(files) }
}

pub(crate) fn read_file(path: &Path) -> Result<String, String> {
    let limit = MAX_FILE.saturating_add(1);
    let mut bytes = Vec::new();
    let read = if is_stdin(path) {
        std::io::stdin().lock().take(limit).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut bytes))
    };
    read.map_err(|error| format!("cannot read it: {error}"))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err("is larger than 4 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())
}

/// The objects of one file's `text`.
pub(super) fn parse(file: &str, text: &str, base: &Path, manifests: &mut Vec<Manifest>, faults: &mut Vec<Fault>) {
    let gathered = Faults::new(file);
    let (documents, syntax) = yaml::parse(text);
    // A document of nothing but comments is none.
    for document in documents.iter().filter(|document| !document.is_null() && !is_test(document)) {
        if let Some(manifest) = read(document, base, &gathered) {
            // What reading has told already is not told again in other words.
            let told = |fault: &Fault| gathered.has(document.line, &fault.path);
            faults.extend(domain_faults(&manifest).into_iter().filter(|fault| !told(fault)));
            manifests.push(manifest);
        }
    }
    if let Some(syntax) = syntax {
        gathered.add(syntax.line, "", syntax.message);
    }
    faults.extend(gathered.into_list());
    faults.sort();
    faults.dedup();
}

/// Cases of `postern policy test`, which lie beside the policies that they try.
fn is_test(document: &yaml::Node) -> bool {
    let yaml::Value::Mapping(entries) = &document.value else { return false };
    let is = |entry: &yaml::Entry| {
        entry.key == "kind" && matches!(&entry.value.value, yaml::Value::Scalar { text, .. } if text == "PolicyTest")
    };
    entries.iter().any(is)
}

fn read(document: &yaml::Node, base: &Path, faults: &Faults) -> Option<Manifest> {
    let mut top = Object::new(document, "", faults)?;
    let version = top.required("apiVersion");
    if !version.is_empty() && version != API_VERSION {
        top.fault("apiVersion", format!("expected {API_VERSION}, not {version:?}"));
    }
    let choices: Vec<(&str, Kind)> = Kind::ALL.iter().map(|kind| (kind.as_str(), *kind)).collect();
    if !top.has("kind") {
        top.fault("kind", "is required");
    }
    let kind = top.choice("kind", &choices);
    let metadata = metadata(&mut top);
    let spec = top.object("spec");
    if !top.has("spec") {
        top.fault("spec", "is required");
    }
    let spec = kind.zip(spec).map(|(kind, spec)| kinds::read(kind, spec, base));
    top.finish();
    let resource = pb::Resource { metadata: Some(metadata), spec: Some(spec?) };
    Some(Manifest { kind: kind?, resource, lines: Lines::new(&faults.file, document) })
}

fn metadata(top: &mut Object<'_>) -> pb::Metadata {
    let Some(mut metadata) = top.object("metadata") else {
        if !top.has("metadata") {
            top.fault("metadata", "is required");
        }
        return pb::Metadata::default();
    };
    let read = pb::Metadata {
        name: metadata.required("name"),
        labels: metadata.map("labels"),
        revision: metadata.number("revision").unwrap_or_default(),
        // Written by `get -o yaml`; the control plane keeps its own.
        created_at: { metadata.string("createdAt").and(None) },
        updated_at: { metadata.string("updatedAt").and(None) },
    };
    metadata.finish();
    read
}

/// What the domain finds wrong with an object whose form is right.
fn domain_faults(manifest: &Manifest) -> Vec<Fault> {
    let mut resource = manifest.resource.clone();
    if let Some(pb::resource::Spec::Secret(secret)) = &mut resource.spec {
        // The domain knows secrets as they rest; this one is not sealed yet.
        let sealed =
            pb::Sealed { kek_id: "none".into(), wrapped_key: vec![0; 48], nonce: vec![0; 12], ciphertext: vec![0; 16] };
        secret.source = Some(pb::secret_spec::Source::Sealed(sealed));
    }
    match postern_core::wire::resource::from_proto(resource) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(|fault| manifest.lines.fault(&fault.path, &fault.message)).collect(),
    }
}

/// One object must not stand in two places.
fn twice(manifests: &[Manifest], faults: &mut Vec<Fault>) {
    let name = |manifest: &Manifest| manifest.resource.metadata.as_ref().map(|metadata| metadata.name.clone());
    for (place, manifest) in manifests.iter().enumerate() {
        let same = |other: &&Manifest| other.kind == manifest.kind && name(other) == name(manifest);
        if let Some(first) = manifests.iter().take(place).find(same) {
            let first = first.lines.fault("metadata.name", "");
            let message = format!(
                "{} {} is declared twice, first at {}:{}",
                manifest.kind,
                name(manifest).unwrap_or_default(),
                first.file,
                first.line
            );
            faults.push(manifest.lines.fault("metadata.name", &message));
        }
    }
}

#[cfg(test)]
#[path = "load_tests.rs"]
mod tests;
