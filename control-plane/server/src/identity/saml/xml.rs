//! XML as SAML needs it, and no more: one strict parser, one tree.
//!
//! What is verified and what is read are nodes of the same tree, so that no two readers can see two documents in the same bytes. There is no DTD, so
//! no entity beyond the five of XML; no processing instruction; no comment in a message (one in the middle of a name would cut it in two for some
//! readers); names are ASCII. Size, depth and number of nodes are bounded before anything is built.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The prefix `xml` is bound to it without a declaration (Namespaces in XML 1.0, section 3).
pub(super) const XML_NS: &str = "http://www.w3.org/XML/1998/namespace";

/// Bounds of one document.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Bytes.
    pub(super) size: usize,
    /// Elements in each other.
    pub(super) depth: usize,
    /// Elements.
    pub(super) elements: usize,
    /// Whether comments may stand in it; they are left out.
    pub(super) comments: bool,
}

impl Bounds {
    /// A message that anybody may send.
    pub(super) const MESSAGE: Self = Self { size: 256 << 10, depth: 32, elements: 8_192, comments: false };
    /// Metadata, which an administrator declares.
    pub(super) const METADATA: Self = Self { size: 256 << 10, depth: 32, elements: 8_192, comments: true };
}

const MAX_ATTRIBUTES: usize = 64;
const MAX_NAMESPACES: usize = 64;

/// Why the bytes are no document that is read here. Nothing of the document is in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum XmlError {
    #[error("it is larger, deeper or has more parts than is accepted")]
    TooLarge,
    #[error("it has a document type declaration")]
    Doctype,
    #[error("it has a processing instruction")]
    Instruction,
    #[error("it has a comment")]
    Comment,
    #[error("it refers to an entity that XML does not define")]
    Entity,
    #[error("it is not encoded in UTF-8")]
    Encoding,
    #[error("it has a character that XML does not permit")]
    Character,
    #[error("a prefix is bound to no namespace, or to one that is reserved")]
    Namespace,
    #[error("an attribute is there twice")]
    Duplicate,
    #[error("it is not well-formed XML")]
    Malformed,
}

/// Prefix to namespace; the default has the empty prefix, and is absent when there is none.
pub(super) type Scope = Arc<BTreeMap<String, String>>;

/// An element with all that is in it.
#[derive(Debug)]
pub(super) struct Element {
    pub(super) prefix: String,
    pub(super) local: String,
    /// Empty: in no namespace.
    pub(super) namespace: String,
    /// In the document's order; declarations of namespaces are not among them.
    pub(super) attributes: Vec<Attribute>,
    /// What prefixes mean here.
    pub(super) scope: Scope,
    pub(super) children: Vec<Node>,
}

#[derive(Debug)]
pub(super) struct Attribute {
    pub(super) prefix: String,
    pub(super) local: String,
    pub(super) namespace: String,
    pub(super) value: String,
}

#[derive(Debug)]
pub(super) enum Node {
    Element(Element),
    Text(String),
}

impl Element {
    pub(super) fn is(&self, namespace: &str, local: &str) -> bool {
        self.namespace == namespace && self.local == local
    }

    /// The value of an attribute that is in no namespace.
    pub(super) fn attribute(&self, local: &str) -> Option<&str> {
        let found = self.attributes.iter().find(|it| it.namespace.is_empty() && it.local == local);
        found.map(|it| it.value.as_str())
    }

    pub(super) fn elements(&self) -> impl Iterator<Item = &Self> {
        self.children.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    pub(super) fn all<'a>(&'a self, namespace: &'a str, local: &'a str) -> impl Iterator<Item = &'a Self> {
        self.elements().filter(move |element| element.is(namespace, local))
    }

    /// The one child of that name: none, or `Err` for several.
    pub(super) fn at_most_one<'a>(&'a self, namespace: &'a str, local: &'a str) -> Result<Option<&'a Self>, ()> {
        let mut all = self.all(namespace, local);
        let first = all.next();
        if all.next().is_some() { Err(()) } else { Ok(first) }
    }

    /// Its text, when there is nothing but text in it.
    pub(super) fn text(&self) -> Option<String> {
        let mut text = String::new();
        for node in &self.children {
            match node {
                Node::Text(part) => text.push_str(part),
                Node::Element(_) => return None,
            }
        }
        Some(text)
    }

    /// This element and all below it.
    pub(super) fn walk<'a>(&'a self, see: &mut impl FnMut(&'a Self)) {
        see(self);
        self.elements().for_each(|element| element.walk(see));
    }
}

/// The document's element.
pub(super) fn parse(bytes: &[u8], bounds: Bounds) -> Result<Element, XmlError> {
    if bytes.len() > bounds.size {
        return Err(XmlError::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| XmlError::Encoding)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.chars().any(|c| !is_char(c)) {
        return Err(XmlError::Character);
    }
    // XML 1.0, section 2.11: before anything else is looked at.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut parser = Parser { rest: &text, bounds, elements: 0 };
    parser.declaration()?;
    parser.between()?;
    let root = parser.element(&Scope::default(), 1)?;
    parser.between()?;
    if parser.rest.is_empty() { Ok(root) } else { Err(XmlError::Malformed) }
}

/// XML 1.0, section 2.2.
const fn is_char(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..='\u{10ffff}')
}

const fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

struct Parser<'a> {
    rest: &'a str,
    bounds: Bounds,
    elements: usize,
}

/// An attribute as it is written.
struct Raw<'a> {
    prefix: &'a str,
    local: &'a str,
    value: String,
}

impl<'a> Parser<'a> {
    fn take(&mut self, literal: &str) -> bool {
        match self.rest.strip_prefix(literal) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, literal: &str) -> Result<(), XmlError> {
        if self.take(literal) { Ok(()) } else { Err(XmlError::Malformed) }
    }

    fn space(&mut self) -> bool {
        let rest = self.rest.trim_start_matches(is_space);
        let any = rest.len() < self.rest.len();
        self.rest = rest;
        any
    }

    /// Up to `end`, which is taken too.
    fn until(&mut self, end: &str) -> Result<&'a str, XmlError> {
        let (before, after) = self.rest.split_once(end).ok_or(XmlError::Malformed)?;
        self.rest = after;
        Ok(before)
    }

    /// `<?xml version="1.0" encoding="UTF-8"?>`
    fn declaration(&mut self) -> Result<(), XmlError> {
        if !self.rest.starts_with("<?xml ") && !self.rest.starts_with("<?xml\n") {
            return Ok(());
        }
        self.expect("<?xml")?;
        let inner = self.until("?>")?;
        let mut inside = Parser { rest: inner, bounds: self.bounds, elements: 0 };
        let mut place = 0;
        while inside.space() && !inside.rest.is_empty() {
            let raw = inside.attribute()?;
            place = match (place, raw.prefix, raw.local, raw.value.as_str()) {
                (0, "", "version", "1.0") => 1,
                (1, "", "encoding", encoding) if encoding.eq_ignore_ascii_case("utf-8") => 2,
                (1, "", "encoding", _) => return Err(XmlError::Encoding),
                (1 | 2, "", "standalone", "yes" | "no") => 3,
                _ => return Err(XmlError::Malformed),
            };
        }
        if place > 0 && inside.rest.is_empty() { Ok(()) } else { Err(XmlError::Malformed) }
    }

    /// What may stand before and after the document's element.
    fn between(&mut self) -> Result<(), XmlError> {
        loop {
            self.space();
            if !self.rest.starts_with("<!") && !self.rest.starts_with("<?") {
                return Ok(());
            }
            self.markup()?;
        }
    }

    /// A comment; whatever else begins with `<!` or `<?` is refused.
    fn markup(&mut self) -> Result<(), XmlError> {
        if self.rest.starts_with("<?") {
            return Err(XmlError::Instruction);
        }
        if !self.take("<!--") {
            return Err(if self.rest.starts_with("<!DOCTYPE") { XmlError::Doctype } else { XmlError::Malformed });
        }
        if !self.bounds.comments {
            return Err(XmlError::Comment);
        }
        let inner = self.until("--")?;
        if inner.ends_with('-') {
            return Err(XmlError::Malformed);
        }
        self.expect(">")
    }

    /// Prefix and local part; ASCII alone.
    fn name(&mut self) -> Result<(&'a str, &'a str), XmlError> {
        let first = self.part()?;
        if self.take(":") { Ok((first, self.part()?)) } else { Ok(("", first)) }
    }

    fn part(&mut self) -> Result<&'a str, XmlError> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let rest = self.rest.trim_start_matches(is_name);
        let (name, rest) = self.rest.split_at_checked(self.rest.len() - rest.len()).ok_or(XmlError::Malformed)?;
        self.rest = rest;
        if name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') {
            Ok(name)
        } else {
            Err(XmlError::Malformed)
        }
    }

    fn attribute(&mut self) -> Result<Raw<'a>, XmlError> {
        let (prefix, local) = self.name()?;
        self.space();
        self.expect("=")?;
        self.space();
        let quote = if self.take("\"") {
            "\""
        } else {
            self.expect("'")?;
            "'"
        };
        let written = self.until(quote)?;
        if written.contains('<') {
            return Err(XmlError::Malformed);
        }
        // XML 1.0, section 3.3.3: white space that is written as itself becomes a space.
        let written = written.replace(['\t', '\n'], " ");
        let mut value = String::with_capacity(written.len());
        unescape(&written, &mut value)?;
        Ok(Raw { prefix, local, value })
    }

    fn element(&mut self, outer: &Scope, depth: usize) -> Result<Element, XmlError> {
        self.elements += 1;
        if depth > self.bounds.depth || self.elements > self.bounds.elements {
            return Err(XmlError::TooLarge);
        }
        self.expect("<")?;
        let (prefix, local) = self.name()?;
        let mut written = Vec::new();
        let empty = loop {
            let spaced = self.space();
            if self.take("/>") {
                break true;
            }
            if self.take(">") {
                break false;
            }
            if !spaced {
                return Err(XmlError::Malformed);
            }
            if written.len() >= MAX_ATTRIBUTES {
                return Err(XmlError::TooLarge);
            }
            written.push(self.attribute()?);
        };
        let scope = declared(outer, &written)?;
        let mut element = Element {
            prefix: prefix.to_owned(),
            local: local.to_owned(),
            namespace: resolve(&scope, prefix)?,
            attributes: attributes(&scope, written)?,
            scope,
            children: Vec::new(),
        };
        if !empty {
            self.content(&mut element, depth)?;
            if self.name()? != (prefix, local) {
                return Err(XmlError::Malformed);
            }
            self.space();
            self.expect(">")?;
        }
        Ok(element)
    }

    /// What is in `element`, up to the name in its end tag.
    fn content(&mut self, element: &mut Element, depth: usize) -> Result<(), XmlError> {
        let mut text = String::new();
        loop {
            let at = self.rest.find('<').ok_or(XmlError::Malformed)?;
            let (written, rest) = self.rest.split_at_checked(at).ok_or(XmlError::Malformed)?;
            self.rest = rest;
            if written.contains("]]>") {
                return Err(XmlError::Malformed);
            }
            unescape(written, &mut text)?;
            if self.take("<![CDATA[") {
                text.push_str(self.until("]]>")?);
            } else if self.rest.starts_with("<!") || self.rest.starts_with("<?") {
                self.markup()?;
            } else {
                if !text.is_empty() {
                    element.children.push(Node::Text(std::mem::take(&mut text)));
                }
                if self.take("</") {
                    return Ok(());
                }
                element.children.push(Node::Element(self.element(&element.scope, depth + 1)?));
            }
        }
    }
}

/// What prefixes mean in an element with the attributes `written`.
fn declared(outer: &Scope, written: &[Raw<'_>]) -> Result<Scope, XmlError> {
    let mut scope = Arc::clone(outer);
    let mut seen = Vec::new();
    for raw in written {
        let prefix = match (raw.prefix, raw.local) {
            ("", "xmlns") => "",
            ("xmlns", "xml" | "xmlns") => return Err(XmlError::Namespace),
            ("xmlns", prefix) => prefix,
            _ => continue,
        };
        if seen.contains(&prefix) {
            return Err(XmlError::Duplicate);
        }
        seen.push(prefix);
        let uri = raw.value.as_str();
        if uri == XML_NS || uri == "http://www.w3.org/2000/xmlns/" || (uri.is_empty() && !prefix.is_empty()) {
            return Err(XmlError::Namespace);
        }
        let names = Arc::make_mut(&mut scope);
        if uri.is_empty() {
            names.remove(prefix);
        } else {
            names.insert(prefix.to_owned(), uri.to_owned());
        }
        if names.len() > MAX_NAMESPACES {
            return Err(XmlError::TooLarge);
        }
    }
    Ok(scope)
}

/// The namespace of an element with `prefix`.
fn resolve(scope: &Scope, prefix: &str) -> Result<String, XmlError> {
    match (prefix, scope.get(prefix)) {
        ("xmlns", _) => Err(XmlError::Namespace),
        ("xml", _) => Ok(XML_NS.to_owned()),
        (_, Some(uri)) => Ok(uri.clone()),
        ("", None) => Ok(String::new()),
        (_, None) => Err(XmlError::Namespace),
    }
}

fn attributes(scope: &Scope, written: Vec<Raw<'_>>) -> Result<Vec<Attribute>, XmlError> {
    let mut attributes: Vec<Attribute> = Vec::with_capacity(written.len());
    for raw in written {
        if raw.prefix == "xmlns" || (raw.prefix.is_empty() && raw.local == "xmlns") {
            continue;
        }
        // The default namespace is not an attribute's (Namespaces in XML 1.0, section 6.2).
        let namespace = if raw.prefix.is_empty() { String::new() } else { resolve(scope, raw.prefix)? };
        if attributes.iter().any(|it| it.local == raw.local && it.namespace == namespace) {
            return Err(XmlError::Duplicate);
        }
        let (prefix, local) = (raw.prefix.to_owned(), raw.local.to_owned());
        attributes.push(Attribute { prefix, local, namespace, value: raw.value });
    }
    Ok(attributes)
}

/// Resolves references: the five entities of XML, and characters by number.
fn unescape(written: &str, out: &mut String) -> Result<(), XmlError> {
    let mut rest = written;
    while let Some((before, after)) = rest.split_once('&') {
        out.push_str(before);
        let (name, after) = after.split_once(';').ok_or(XmlError::Malformed)?;
        let c = match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            _ => {
                let number = name.strip_prefix('#').ok_or(XmlError::Entity)?;
                let (digits, radix) = match number.strip_prefix('x') {
                    Some(hex) => (hex, 16),
                    None => (number, 10),
                };
                if digits.is_empty() || digits.len() > 8 || !digits.chars().all(|c| c.is_digit(radix)) {
                    return Err(XmlError::Malformed);
                }
                let code = u32::from_str_radix(digits, radix).map_err(|_| XmlError::Character)?;
                char::from_u32(code).filter(|c| is_char(*c)).ok_or(XmlError::Character)?
            }
        };
        out.push(c);
        rest = after;
    }
    out.push_str(rest);
    Ok(())
}

#[cfg(test)]
#[path = "xml_tests.rs"]
mod tests;
