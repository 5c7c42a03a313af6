//! Exclusive XML Canonicalization 1.0 without comments (there are none in the tree): the bytes that are signed.

use std::collections::{BTreeMap, BTreeSet};

use super::xml::{Attribute, Element, Node};

/// `Algorithm` of it.
pub(super) const EXCLUSIVE: &str = "http://www.w3.org/2001/10/xml-exc-c14n#";

/// The canonical bytes of `element` with all that is in it but `without`. `inclusive` are the prefixes of an InclusiveNamespaces list.
pub(super) fn canonical(element: &Element, without: Option<&Element>, inclusive: &BTreeSet<String>) -> String {
    let mut out = String::new();
    write(element, without, inclusive, &BTreeMap::new(), &mut out);
    out
}

/// What prefixes mean in the output so far.
type Rendered<'a> = BTreeMap<&'a str, &'a str>;

fn write<'a>(
    element: &'a Element,
    without: Option<&Element>,
    inclusive: &'a BTreeSet<String>,
    outer: &Rendered<'a>,
    out: &mut String,
) {
    // Section 3: those that the element or its attributes use, and those on the list.
    let used = element.attributes.iter().map(|it| it.prefix.as_str()).filter(|prefix| !prefix.is_empty());
    let used: BTreeSet<&str> =
        used.chain([element.prefix.as_str()]).chain(inclusive.iter().map(String::as_str)).collect();
    let mut rendered = outer.clone();
    let mut declarations = Vec::new();
    for prefix in used.into_iter().filter(|prefix| *prefix != "xml") {
        match (element.scope.get(prefix), outer.get(prefix)) {
            (Some(uri), known) if known != Some(&uri.as_str()) => {
                declarations.push((prefix, uri.as_str()));
                rendered.insert(prefix, uri);
            }
            // The default namespace is taken back.
            (None, Some(uri)) if prefix.is_empty() && !uri.is_empty() => {
                declarations.push(("", ""));
                rendered.insert("", "");
            }
            _ => {}
        }
    }
    out.push('<');
    let name = |out: &mut String| qualified(&element.prefix, &element.local, out);
    name(out);
    // Sorted by prefix, as they came out of the set.
    for (prefix, uri) in declarations {
        out.push_str(if prefix.is_empty() { " xmlns" } else { " xmlns:" });
        out.push_str(prefix);
        value(uri, out);
    }
    let mut attributes: Vec<&Attribute> = element.attributes.iter().collect();
    attributes.sort_by(|a, b| (&a.namespace, &a.local).cmp(&(&b.namespace, &b.local)));
    for attribute in attributes {
        out.push(' ');
        qualified(&attribute.prefix, &attribute.local, out);
        value(&attribute.value, out);
    }
    out.push('>');
    for node in &element.children {
        match node {
            Node::Text(text) => escape(text, out),
            Node::Element(child) if without.is_some_and(|without| std::ptr::eq(child, without)) => {}
            Node::Element(child) => write(child, without, inclusive, &rendered, out),
        }
    }
    out.push_str("</");
    name(out);
    out.push('>');
}

fn qualified(prefix: &str, local: &str, out: &mut String) {
    if !prefix.is_empty() {
        out.push_str(prefix);
        out.push(':');
    }
    out.push_str(local);
}

/// Canonical XML 1.0, section 2.3, "Attribute Nodes".
fn value(text: &str, out: &mut String) {
    out.push_str("=\"");
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '"' => out.push_str("&quot;"),
            '\t' => out.push_str("&#x9;"),
            '\n' => out.push_str("&#xA;"),
            '\r' => out.push_str("&#xD;"),
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Canonical XML 1.0, section 2.3, "Text Nodes".
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\r' => out.push_str("&#xD;"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::xml::{Bounds, parse};
    use super::*;

    fn canon(xml: &str, prefixes: &[&str]) -> String {
        let root = parse(xml.as_bytes(), Bounds::MESSAGE).unwrap();
        canonical(&root, None, &prefixes.iter().map(|prefix| (*prefix).to_owned()).collect())
    }

    /// Exclusive XML Canonicalization 1.0, section 2.2: only what is used is declared, where it is used.
    #[test]
    fn declares_what_is_used_where_it_is_used() {
        let within = "<n0:pdu xmlns:n0=\"http://a\" xmlns:n2=\"http://b\"><n1:elem2 xmlns:n1=\"http://c\" xml:lang=\"en\"><n3:stuff xmlns:n3=\"ftp://d\"/></n1:elem2></n0:pdu>";
        let expected = "<n0:pdu xmlns:n0=\"http://a\"><n1:elem2 xmlns:n1=\"http://c\" xml:lang=\"en\"><n3:stuff xmlns:n3=\"ftp://d\"></n3:stuff></n1:elem2></n0:pdu>";
        assert_eq!(canon(within, &[]), expected);
        assert_eq!(canon(within, &["n2"]), expected.replacen("\">", "\" xmlns:n2=\"http://b\">", 1));
        let root = parse(within.as_bytes(), Bounds::MESSAGE).unwrap();
        let child = root.elements().next().unwrap();
        assert!(
            canonical(child, None, &BTreeSet::new()).starts_with("<n1:elem2 xmlns:n1=\"http://c\" xml:lang=\"en\">")
        );
        assert!(
            canonical(child, None, &["n0".to_owned()].into()).starts_with("<n1:elem2 xmlns:n0=\"http://a\" xmlns:n1")
        );
        assert_eq!(canonical(&root, Some(child), &BTreeSet::new()), "<n0:pdu xmlns:n0=\"http://a\"></n0:pdu>");
    }

    #[test]
    fn a_default_namespace_comes_and_goes() {
        let xml = "<a xmlns=\"u\"><b xmlns=\"\"><c/></b><d xmlns=\"u\"/></a>";
        assert_eq!(canon(xml, &[]), "<a xmlns=\"u\"><b xmlns=\"\"><c></c></b><d></d></a>");
        assert_eq!(
            canon("<p:a xmlns:p=\"u\" xmlns=\"v\"><b/></p:a>", &[]),
            "<p:a xmlns:p=\"u\"><b xmlns=\"v\"></b></p:a>"
        );
    }

    /// Canonical XML 1.0, sections 3.3 and 3.4: order of attributes, and what is written by number.
    #[test]
    fn attributes_are_in_order_and_characters_are_escaped() {
        let xml = "<e5 xmlns:b='http://b' xmlns:a='http://a' b:attr='1' attr2='all' attr='I&#39;m' a:attr='o'/>";
        let expected =
            "<e5 xmlns:a=\"http://a\" xmlns:b=\"http://b\" attr=\"I'm\" attr2=\"all\" a:attr=\"o\" b:attr=\"1\"></e5>";
        assert_eq!(canon(xml, &[]), expected);
        let xml = "<t a='x&#9;&#10;&#13;\n\"&lt;&amp;>'>a&#13;\r\n&lt;&gt;\"<![CDATA[<&]]></t>";
        assert_eq!(canon(xml, &[]), "<t a=\"x&#x9;&#xA;&#xD; &quot;&lt;&amp;>\">a&#xD;\n&lt;&gt;\"&lt;&amp;</t>");
    }
}
