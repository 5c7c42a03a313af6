use super::*;

fn read(xml: &str) -> Result<Element, XmlError> {
    parse(xml.as_bytes(), Bounds::MESSAGE)
}

#[test]
fn reads_names_values_and_text() {
    let root = read(
        "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<p:a xmlns:p='u' xmlns='d' id = \"1 &lt;2\" p:x='y'>t&amp;<b/><![CDATA[<&]]>&#x41;&#66;</p:a>\n",
    );
    let root = root.unwrap();
    assert!(root.is("u", "a"));
    assert_eq!((root.attribute("id"), root.attribute("x")), (Some("1 <2"), None));
    assert!(root.elements().next().unwrap().is("d", "b"));
    assert_eq!(root.text(), None);
    assert!(matches!(root.children.as_slice(), [Node::Text(a), _, Node::Text(b)] if a == "t&" && b == "<&AB"));
    assert_eq!(read("<a>one<![CDATA[ two]]></a>").unwrap().text().as_deref(), Some("one two"));
}

#[test]
fn refuses_what_no_message_needs() {
    for (xml, error) in [
        ("<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><a>&x;</a>", XmlError::Doctype),
        ("<?xml version=\"1.0\"?><!DOCTYPE a><a/>", XmlError::Doctype),
        ("<a><!DOCTYPE a></a>", XmlError::Doctype),
        ("<a>&lol;</a>", XmlError::Entity),
        ("<a b=\"&ext;\"/>", XmlError::Entity),
        ("<?xml-stylesheet href=\"x\"?><a/>", XmlError::Instruction),
        ("<a><?php ?></a>", XmlError::Instruction),
        ("<a>x<!-- -->y</a>", XmlError::Comment),
        ("<!-- --><a/>", XmlError::Comment),
        ("<?xml version=\"1.0\" encoding=\"UTF-16\"?><a/>", XmlError::Encoding),
        ("<?xml version=\"1.1\"?><a/>", XmlError::Malformed),
        ("<p:a/>", XmlError::Namespace),
        ("<a p:b=\"\"/>", XmlError::Namespace),
        ("<a xmlns:p=\"\"/>", XmlError::Namespace),
        ("<a xmlns:xml=\"u\"/>", XmlError::Namespace),
        ("<a xmlns:p=\"http://www.w3.org/XML/1998/namespace\"/>", XmlError::Namespace),
        ("<xmlns:a/>", XmlError::Namespace),
        ("<a b='1' b='2'/>", XmlError::Duplicate),
        ("<a xmlns:p='u' xmlns:q='u' p:b='1' q:b='2'/>", XmlError::Duplicate),
        ("<a xmlns:p='u' xmlns:p='v'/>", XmlError::Duplicate),
        ("<a>&#0;</a>", XmlError::Character),
        ("<a>&#xD800;</a>", XmlError::Character),
        ("<a>\u{1}</a>", XmlError::Character),
        ("<a>\u{ffff}</a>", XmlError::Character),
    ] {
        assert_eq!(read(xml).unwrap_err(), error, "{xml}");
    }
    for xml in [
        "",
        "a",
        "<a>",
        "</a>",
        "<a/><b/>",
        "<a/>x",
        "x<a/>",
        "<a></b>",
        "<a b/>",
        "<a b=1/>",
        "<a b='<'/>",
        "<a b='1'c='2'/>",
        "< a/>",
        "<a>&amp</a>",
        "<a>&#;</a>",
        "<a>&#x;</a>",
        "<a>&#x110000000;</a>",
        "<a>&# 5;</a>",
        "<a>]]></a>",
        "<a><![CDATA[</a>",
        "<1a/>",
        "<a:b:c/>",
        "<é/>",
        "<a xmlns:p='u'></p:a>",
        "<?xml encoding='utf-8'?><a/>",
        "<a",
        "<a b='",
        "<![CDATA[x]]><a/>",
    ] {
        assert_eq!(read(xml).unwrap_err(), XmlError::Malformed, "{xml}");
    }
    assert_eq!(parse(b"<a>\xff</a>", Bounds::MESSAGE).unwrap_err(), XmlError::Encoding);
}

#[test]
fn metadata_may_have_comments_and_they_are_no_text() {
    let read = |xml: &str| parse(xml.as_bytes(), Bounds::METADATA);
    assert_eq!(read("<!-- a --><a>x<!-- b -->y</a><!---->").unwrap().text().as_deref(), Some("xy"));
    assert_eq!(read("<a><!-- -- --></a>").unwrap_err(), XmlError::Malformed);
    assert_eq!(read("<a><!-- ---></a>").unwrap_err(), XmlError::Malformed);
}

#[test]
fn everything_is_bounded() {
    let nested = |depth: usize| "<a>".repeat(depth) + &"</a>".repeat(depth);
    assert!(read(&nested(Bounds::MESSAGE.depth)).is_ok());
    assert_eq!(read(&nested(Bounds::MESSAGE.depth + 1)).unwrap_err(), XmlError::TooLarge);
    assert_eq!(read(&nested(40_000)).unwrap_err(), XmlError::TooLarge);
    let wide = format!("<a>{}</a>", "<b/>".repeat(Bounds::MESSAGE.elements));
    assert_eq!(read(&wide).unwrap_err(), XmlError::TooLarge);
    let attributes: String = (0..=MAX_ATTRIBUTES).map(|n| format!(" a{n}=''")).collect();
    assert_eq!(read(&format!("<a{attributes}/>")).unwrap_err(), XmlError::TooLarge);
    assert_eq!(read(&format!("<a>{}</a>", "x".repeat(Bounds::MESSAGE.size))).unwrap_err(), XmlError::TooLarge);
}
