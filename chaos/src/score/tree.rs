//! What a server's parse tree says (`nodeToString` of PostgreSQL's outfuncs.c): relations with the permissions to be asked for, and functions.

use std::collections::{BTreeMap, BTreeSet};

/// `ACL_INSERT`, `ACL_SELECT`, `ACL_UPDATE`, `ACL_DELETE` of PostgreSQL's parsenodes.h.
pub(super) const INSERT: u32 = 1;
pub(super) const SELECT: u32 = 1 << 1;
pub(super) const UPDATE: u32 = 1 << 2;
pub(super) const DELETE: u32 = 1 << 3;

/// What a tree names, by OID.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tree {
    /// Relations, with the permissions that they need.
    pub(super) relations: BTreeMap<u32, u32>,
    /// Functions that are called by their names, aggregates and window functions too.
    pub(super) functions: BTreeSet<u32>,
    /// Functions behind casts.
    pub(super) casts: BTreeSet<u32>,
    /// Operators, with the functions behind them.
    pub(super) operators: BTreeSet<(u32, u32)>,
}

/// One node that is open, and its fields that matter.
#[derive(Default)]
struct Open<'a> {
    label: &'a str,
    fields: BTreeMap<&'a str, u32>,
}

/// Fields that are read, of whatever node.
const FIELDS: &[&str] =
    &["rtekind", "relid", "requiredPerms", "funcid", "funcformat", "aggfnoid", "winfnoid", "opno", "opfuncid"];

impl Tree {
    /// Adds what `text` says.
    pub(super) fn read(&mut self, text: &str) {
        let mut open: Vec<Open<'_>> = Vec::new();
        let mut words = Words { rest: text };
        let mut field = None;
        while let Some(word) = words.next() {
            match word {
                "{" => open.push(Open { label: words.next().unwrap_or_default(), ..Default::default() }),
                "}" => {
                    if let Some(node) = open.pop() {
                        self.take(&node);
                    }
                }
                _ if word.starts_with(':') => field = FIELDS.iter().find(|name| word.get(1..) == Some(**name)),
                _ => {
                    if let (Some(name), Ok(value), Some(node)) = (field.take(), word.parse(), open.last_mut()) {
                        node.fields.insert(name, value);
                    }
                }
            }
        }
    }

    fn take(&mut self, node: &Open<'_>) {
        let field = |name: &str| node.fields.get(name).copied().unwrap_or_default();
        match node.label {
            // Of PostgreSQL 16 on, permissions stand in nodes of their own.
            "RTE" | "RANGETBLENTRY" | "RTEPERMISSIONINFO" | "PERMISSIONINFO"
                if field("rtekind") == 0 && field("relid") != 0 =>
            {
                *self.relations.entry(field("relid")).or_default() |= field("requiredPerms");
            }
            "FUNCEXPR" if matches!(field("funcformat"), 1 | 2) => drop(self.casts.insert(field("funcid"))),
            "FUNCEXPR" => drop(self.functions.insert(field("funcid"))),
            "AGGREF" => drop(self.functions.insert(field("aggfnoid"))),
            "WINDOWFUNC" => drop(self.functions.insert(field("winfnoid"))),
            "OPEXPR" | "DISTINCTEXPR" | "NULLIFEXPR" | "SCALARARRAYOPEXPR" => {
                self.operators.insert((field("opno"), field("opfuncid")));
            }
            _ => {}
        }
    }

    /// Whether it names nothing.
    #[must_use]
    pub(super) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Words of a tree: braces by themselves, others up to a blank or bracket. A backslash takes the next character along.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.rest.trim_start_matches([' ', '\n', '(', ')', '[', ']']);
        let first = text.chars().next()?;
        if matches!(first, '{' | '}') {
            let (word, rest) = text.split_at(1);
            self.rest = rest;
            return Some(word);
        }
        let mut escaped = false;
        let end = text.find(|c: char| {
            let taken_along = escaped;
            escaped = !taken_along && c == '\\';
            !taken_along && matches!(c, ' ' | '\n' | '(' | ')' | '{' | '}')
        });
        let (word, rest) = text.split_at(end.unwrap_or(text.len()));
        self.rest = rest;
        Some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_is_read() {
        let text = "{QUERY :commandType 1 :rtable ({RTE :alias <> :eref {ALIAS :aliasname a\\ \\{b :colnames (\"x\" \"y\")} :rtekind 0 :relid 1259 \
                    :relkind r :requiredPerms 2} {RTE :rtekind 2 :funcexpr {FUNCEXPR :funcid 1067 :funcformat 0 :args <>}}) :jointree {OPEXPR :opno 96 \
                    :opfuncid 65 :args ({FUNCEXPR :funcid 77 :funcformat 2})} :targetList ({AGGREF :aggfnoid 2147})}";
        let mut tree = Tree::default();
        tree.read(text);
        assert_eq!(tree.relations, BTreeMap::from([(1259, SELECT)]));
        assert_eq!(tree.functions, BTreeSet::from([1067, 2147]));
        assert_eq!((tree.casts, tree.operators), (BTreeSet::from([77]), BTreeSet::from([(96, 65)])));
    }
}
