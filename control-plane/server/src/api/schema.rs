//! What the descriptors say of messages and methods: for fields that this version does not know, and for field masks.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use postern_proto::DESCRIPTORS;
use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_types::{DescriptorProto, FileDescriptorSet, field_descriptor_proto};

/// How deep messages may stand in each other: prost's own limit.
const MAX_DEPTH: usize = 100;

/// Of the descriptors that this version is built with.
pub(super) static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::load);

/// Messages and methods by name.
#[derive(Debug, Default)]
pub(super) struct Schema {
    messages: BTreeMap<String, Fields>,
    methods: BTreeMap<String, Method>,
}

/// A message's fields by number.
type Fields = BTreeMap<u32, Field>;

#[derive(Debug)]
pub(super) struct Field {
    pub(super) name: String,
    /// The type of a field that is a message.
    pub(super) message: Option<String>,
    pub(super) repeated: bool,
}

#[derive(Debug)]
struct Method {
    input: String,
    client_streaming: bool,
}

impl Schema {
    fn load() -> Self {
        let mut schema = Self::default();
        // Ours, and compiled in; were it not readable, no method would be served (`Schema::input`).
        let set = FileDescriptorSet::decode(DESCRIPTORS).unwrap_or_default();
        for file in set.file {
            let package = file.package().to_owned();
            for message in file.message_type {
                schema.add(&package, message);
            }
            for service in file.service {
                for method in &service.method {
                    let path = format!("/{package}.{}/{}", service.name(), method.name());
                    let input = method.input_type().trim_start_matches('.').to_owned();
                    schema.methods.insert(path, Method { input, client_streaming: method.client_streaming() });
                }
            }
        }
        schema
    }

    fn add(&mut self, outer: &str, message: DescriptorProto) {
        let name = format!("{outer}.{}", message.name());
        let field = |field: &prost_types::FieldDescriptorProto| Field {
            name: field.name().to_owned(),
            message: (field.r#type() == field_descriptor_proto::Type::Message)
                .then(|| field.type_name().trim_start_matches('.').to_owned()),
            repeated: field.label() == field_descriptor_proto::Label::Repeated,
        };
        let fields = message.field.iter().map(|one| (u32::try_from(one.number()).unwrap_or(0), field(one))).collect();
        for nested in message.nested_type {
            self.add(&name, nested);
        }
        self.messages.insert(name, fields);
    }

    /// Every method's path.
    #[cfg(test)]
    pub(super) fn methods(&self) -> impl Iterator<Item = &str> {
        self.methods.keys().map(String::as_str)
    }

    /// The type of a method's one request; `None` for a stream of them.
    pub(super) fn input(&self, path: &str) -> Option<&str> {
        self.methods.get(path).filter(|method| !method.client_streaming).map(|method| method.input.as_str())
    }

    /// The field of `message` with this name, and its number.
    pub(super) fn field(&self, message: &str, name: &str) -> Option<(u32, &Field)> {
        let fields = self.messages.get(message)?;
        fields.iter().find(|(_, field)| field.name == name).map(|(number, field)| (*number, field))
    }

    /// The first field in `bytes`, a message of type `message`, that this version does not know, by its path. What is no message at all is
    /// for the decoder to refuse.
    pub(super) fn unknown_field(&self, message: &str, bytes: &[u8]) -> Option<String> {
        let mut path = Vec::new();
        self.unknown_in(message, bytes, &mut path).map(|number| {
            path.reverse();
            path.push(format!("#{number}"));
            path.join(".")
        })
    }

    fn unknown_in(&self, message: &str, bytes: &[u8], path: &mut Vec<String>) -> Option<u32> {
        self.walk(message, bytes, path, 0)
    }

    /// Gives the number of an unknown field; `path` then holds the way to it, innermost first.
    fn walk(&self, message: &str, bytes: &[u8], path: &mut Vec<String>, depth: usize) -> Option<u32> {
        let fields = self.messages.get(message)?;
        let mut seen: BTreeMap<u32, usize> = BTreeMap::new();
        for piece in pieces(bytes) {
            let Ok(Piece { number, payload, .. }) = piece else { return None };
            let Some(field) = fields.get(&number) else { return Some(number) };
            let nth = seen.entry(number).and_modify(|nth| *nth = nth.saturating_add(1)).or_insert(0);
            let (Some(inner), Some(payload)) = (&field.message, payload) else { continue };
            if depth >= MAX_DEPTH {
                continue;
            }
            if let Some(unknown) = self.walk(inner, payload, path, depth.saturating_add(1)) {
                path.push(if field.repeated { format!("{}[{nth}]", field.name) } else { field.name.clone() });
                return Some(unknown);
            }
        }
        None
    }
}

/// One field of an encoded message.
pub(super) struct Piece<'a> {
    pub(super) number: u32,
    /// All of it, with its key.
    pub(super) whole: &'a [u8],
    /// What a length-delimited field holds.
    pub(super) payload: Option<&'a [u8]>,
}

/// It is no encoded message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The fields of an encoded message in their order; the last is an error when the rest cannot be read.
pub(super) fn pieces(bytes: &[u8]) -> impl Iterator<Item = Result<Piece<'_>, Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let taken = piece(rest);
        rest = match &taken {
            Some((_, after)) => after,
            None => &[],
        };
        Some(taken.map(|(piece, _)| piece).ok_or(Malformed))
    })
}

fn piece(bytes: &[u8]) -> Option<(Piece<'_>, &[u8])> {
    let mut rest = bytes;
    let (number, wire) = decode_key(&mut rest).ok()?;
    let mut payload = None;
    match wire {
        WireType::Varint => drop(decode_varint(&mut rest).ok()?),
        WireType::SixtyFourBit => rest = rest.get(8..)?,
        WireType::ThirtyTwoBit => rest = rest.get(4..)?,
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            payload = Some(rest.get(..length)?);
            rest = rest.get(length..)?;
        }
        // proto3 has none.
        WireType::StartGroup | WireType::EndGroup => return None,
    }
    let whole = bytes.get(..bytes.len().checked_sub(rest.len())?)?;
    Some((Piece { number, whole, payload }, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_proto::admin::v1 as pb;
    use postern_proto::resource::v1 as resource_pb;

    const APPLY: &str = "postern.admin.v1.ApplyRequest";

    fn request() -> pb::ApplyRequest {
        let spec = resource_pb::TargetSpec { address: "a:1".into(), ..Default::default() };
        let resource = resource_pb::Resource {
            metadata: Some(resource_pb::Metadata {
                name: "db".into(),
                labels: [("a".to_owned(), "b".to_owned())].into(),
                ..Default::default()
            }),
            spec: Some(resource_pb::resource::Spec::Target(spec)),
        };
        pb::ApplyRequest { resources: vec![resource.clone(), resource], ..Default::default() }
    }

    #[test]
    fn what_is_known_passes() {
        assert_eq!(SCHEMA.unknown_field(APPLY, &request().encode_to_vec()), None);
        assert_eq!(SCHEMA.input("/postern.admin.v1.ResourceService/Apply"), Some(APPLY));
        // Not ours to refuse.
        assert_eq!(SCHEMA.unknown_field(APPLY, &[0xff, 0xff]), None);
    }

    #[test]
    fn what_is_newer_is_found_by_its_path() {
        let mut bytes = request().encode_to_vec();
        bytes.extend([0xf8, 0x07, 1]);
        assert_eq!(SCHEMA.unknown_field(APPLY, &bytes), Some("#127".into()));

        // A field 127 inside the second resource's spec.
        let mut target = resource_pb::TargetSpec::default().encode_to_vec();
        target.extend([0xf8, 0x07, 1]);
        let wrap = |number: u8, inner: &[u8]| {
            let mut out = vec![number << 3 | 2, u8::try_from(inner.len()).unwrap()];
            out.extend(inner);
            out
        };
        let mut bytes = request().encode_to_vec();
        bytes.extend(wrap(1, &wrap(3, &target)));
        assert_eq!(SCHEMA.unknown_field(APPLY, &bytes), Some("resources[2].target.#127".into()));
    }

    /// It reads what anybody sends, before anybody else does.
    #[test]
    fn no_bytes_are_too_strange() {
        let whole = request().encode_to_vec();
        for cut in 0..whole.len() {
            let _ = SCHEMA.unknown_field(APPLY, &whole[..cut]);
        }
        // Deeper than anything is read.
        let mut deep = Vec::new();
        for _ in 0..10_000 {
            let mut outer = vec![0x0a];
            prost::encoding::encode_varint(deep.len() as u64, &mut outer);
            outer.extend(&deep);
            deep = outer;
            if deep.len() > 40_000 {
                break;
            }
        }
        let _ = SCHEMA.unknown_field(APPLY, &deep);
        let mut seed = 7_u64;
        for _ in 0..20_000 {
            let bytes: Vec<u8> = (0..seed % 64)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    (seed >> 56) as u8
                })
                .collect();
            seed = seed.wrapping_add(1);
            let _ = SCHEMA.unknown_field(APPLY, &bytes);
            let _ = super::super::mask::merge(
                &resource_pb::Resource::decode(bytes.as_slice()).unwrap_or_default(),
                &request().resources[0],
                &["spec".to_owned()],
            );
        }
    }
}
