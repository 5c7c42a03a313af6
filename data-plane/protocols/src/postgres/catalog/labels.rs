//! Labels of columns, by which masking rules may name them: words of comments, and security labels.

use std::sync::Arc;

use super::Catalog;

/// Of relations (column 0) and their columns.
pub(super) const QUERY: &str = "SELECT d.objoid, d.objsubid, NULL AS provider, d.description FROM pg_catalog.pg_description d \
     WHERE d.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objoid >= 16384 AND d.description LIKE '%@postern:%' \
     UNION ALL SELECT l.objoid, l.objsubid, l.provider, l.label FROM pg_catalog.pg_seclabel l \
     WHERE l.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND l.objoid >= 16384";

/// What stands before a label in a comment.
const SIGN: &str = "@postern:";
/// Most labels of one column (I11).
const MAX_LABELS: usize = 64;

impl Catalog {
    /// Takes what a comment, or a security label of `provider`, says of a column; of the relation, where its number is 0.
    pub(super) fn label(&mut self, of: u32, number: i16, provider: Option<&str>, text: &str) {
        let labels: Vec<Arc<str>> = match provider {
            Some(provider) => vec![format!("{provider}:{text}").into()],
            None => said(text).map(Arc::from).collect(),
        };
        // One of a relation that was made since is of none that is known.
        let Some(relation) = self.relations.get_mut(&of) else { return };
        for (_, column) in relation.columns.iter_mut().filter(|(known, _)| number == 0 || **known == number) {
            for label in &labels {
                if column.labels.len() < MAX_LABELS && !column.labels.contains(label) {
                    column.labels.push(Arc::clone(label));
                }
            }
        }
    }
}

/// The labels that a comment gives: `@postern:pii`, each up to the next blank, comma or bracket.
fn said(comment: &str) -> impl Iterator<Item = &str> {
    let ends = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '"' | '\'' | '(' | ')' | '[' | ']');
    let words = comment.split(SIGN).skip(1);
    let words = words.map(move |rest| rest.split(ends).next().unwrap_or_default().trim_end_matches('.'));
    words.filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_say_labels() {
        let labels = |comment| said(comment).collect::<Vec<_>>();
        assert_eq!(
            labels("Where to write. @postern:pii @postern:contact.mail, (see @postern:gdpr/9)."),
            ["pii", "contact.mail", "gdpr/9"]
        );
        assert_eq!(labels("@postern:pii@postern:x\n@postern:"), ["pii", "x"]);
        assert!(labels("postern:pii, @ postern:pii, @Postern:pii").is_empty());
    }
}
