use std::path::Path;

use super::*;
use crate::manifest::load;

fn cases_of(dir: &Path, policies: &str, cases: &str) -> Result<(), Failure> {
    std::fs::write(dir.join("all.cedar"), policies).unwrap();
    let head = "apiVersion: postern/v1\nkind: PolicyTest\npolicies: [all.cedar]\nrelations: [public.orders, app.jobs]\ncases:\n";
    let file = dir.join("cases.yaml");
    std::fs::write(&file, format!("{head}{cases}")).unwrap();
    test(&[file])
}

const POLICIES: &str = r#"
@id("reads") permit (principal in Group::"analysts", action in Action::"sql:read", resource in Target::"shop");
@id("no-jobs") @reason("ask ops") forbid (principal, action, resource in Schema::"shop/shop.app");
@id("deletes") @approval("dba") permit (principal in Group::"analysts", action == Action::"sql:delete", resource in Target::"shop")
when { context has bounded && context.bounded };
"#;

fn case(statement: &str, expect: &str) -> String {
    format!(
        "- {{name: c, principal: {{issuer: corp, subject: alice, groups: [analysts]}}, target: shop, statement: \"{statement}\", expect: {expect}}}\n"
    )
}

#[test]
fn cases_are_decided_as_a_gateway_would() {
    let dir = tempfile::tempdir().unwrap();
    let all: String = [
        case("select * from orders", "permit"),
        case("select lower(note) from public.orders where id = 1", "permit"),
        case("select * from app.jobs", "deny"),
        case("delete from orders where id = 1", "hold"),
        case("delete from orders", "deny"),
        case("select * from nowhere", "permit, by: [reads]"),
        case("begin", "permit"),
        case("selec", "deny"),
    ]
    .concat();
    cases_of(dir.path(), POLICIES, &all).unwrap();
    let wrong = case("select * from app.jobs", "permit") + &case("select 1 from orders", "permit, by: [deletes]");
    let told = cases_of(dir.path(), POLICIES, &wrong).unwrap_err().to_string();
    for part in ["cases.yaml:6: c: expected permit, decided deny", "ask ops", "not by policy deletes", "2 of 2 cases"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn cases_know_columns_limits_and_grants() {
    let dir = tempfile::tempdir().unwrap();
    let policies = r#"
@id("no-mail") permit (principal, action == Action::"sql:select", resource)
when { context has columns && !context.columns.contains("email") && context has limit && context.limit <= 10 };
@id("calm") permit (principal, action in Action::"sql:*", resource in Schema::"shop/shop.app")
when { !context.callsVolatile && !context.callsDefiner };
@id("few") permit (principal, action in [Action::"sql:update", Action::"sql:select"], resource == Table::"shop/shop.public.orders")
when { context has estimatedRows && context.estimatedRows <= 10 };
"#;
    std::fs::write(dir.path().join("all.cedar"), policies).unwrap();
    let head = "apiVersion: postern/v1\nkind: PolicyTest\npolicies: [all.cedar, on-call.yaml]\nrelations: [\"public.customers(id, email)\", public.orders, app.jobs]\nfunctions: [app.price, app.stamp volatile, app.peek definer]\ncases:\n";
    let all: String = [
        case("select id from customers limit 10", "permit, by: [no-mail]"),
        case("select id from customers limit 11", "deny"),
        case("select id from customers where email = 'x' limit 1", "deny"),
        case("select * from customers limit 1", "deny"),
        case("update orders set note = 'x' where id = 1", "deny"),
        case("update orders set note = 'x' where id = 1", "permit, estimatedRows: 10"),
        case("update orders set note = 'x' where id = 1", "deny, estimatedRows: 11"),
        case("select app.price(id) from app.jobs", "permit, by: [calm]"),
        case("select app.stamp(id) from app.jobs", "deny"),
        case("select app.peek(id) from app.jobs", "deny"),
        case("select app.other(id) from app.jobs", "deny"),
        case("select app.price(id) from app.jobs where app.stamp(1) = 1", "deny"),
        // Its columns are not known.
        case("select id from orders limit 1", "deny"),
        case("delete from orders where id = 1", "permit, granted: [on-call], justification: INC-7"),
        case("delete from orders where id = 1", "deny, granted: [on-call], justification: because"),
        case("delete from orders where id = 1", "deny, granted: [on-call]"),
        case("delete from orders where id = 1", "deny, justification: INC-7"),
    ]
    .concat();
    let file = dir.path().join("cases.yaml");
    std::fs::write(&file, format!("{head}{all}")).unwrap();
    // One that permits on request stands in a manifest.
    let on_request = "apiVersion: postern/v1\nkind: Policy\nmetadata: {name: on-call}\nspec:\n  onRequest: {review: [{groups: [leads]}]}\n  cedar: |\n    permit (principal, action in [Action::\"sql:delete\", Action::\"sql:select\"], resource)\n    when { context.granted.contains(\"on-call\") && context has justification && context.justification like \"INC-*\" };\n";
    std::fs::write(dir.path().join("on-call.yaml"), on_request).unwrap();
    test(&[file]).unwrap();
    let wrong = "apiVersion: postern/v1\nkind: PolicyTest\npolicies: [all.cedar]\nrelations: [\"public.customers(id\"]\ncases:\n";
    let file = dir.path().join("wrong.yaml");
    std::fs::write(&file, format!("{wrong}{}", case("select id from customers", "permit"))).unwrap();
    assert!(test(&[file]).unwrap_err().to_string().contains("is not SCHEMA.NAME or SCHEMA.NAME(COLUMN, COLUMN)"));
}

#[test]
fn cases_expect_obligations() {
    let dir = tempfile::tempdir().unwrap();
    let policies = r#"@id("few") @rowLimit("10") @readOnly permit (principal, action in Action::"sql:read", resource);
@id("soon") @statementTimeout("1m") permit (principal, action, resource in Schema::"shop/shop.app");"#;
    let all: String = [
        case("select * from orders", "permit, obligations: {rowLimit: 10, readOnly: true}"),
        case("select * from app.jobs", "permit, obligations: {rowLimit: 10, readOnly: true, statementTimeout: 1m}"),
        case("insert into app.jobs values (1)", "permit, obligations: {statementTimeout: 60s}"),
        case("insert into app.jobs select * from orders", "deny"),
        case("begin", "permit, obligations: {statementTimeout: 1m}"),
    ]
    .concat();
    cases_of(dir.path(), policies, &all).unwrap();
    let wrong = case("select * from orders", "permit, obligations: {}");
    let told = cases_of(dir.path(), policies, &wrong).unwrap_err().to_string();
    assert!(told.contains("permitted as expected, but bound by at most 10 rows (few), read only (few)"), "{told}");
    let faulty = case("select 1", "permit, obligations: {rowLimit: none}");
    assert!(cases_of(dir.path(), policies, &faulty).unwrap_err().to_string().contains("cases[0].obligations.rowLimit"));
}

#[test]
fn cases_expect_reviews_afterwards() {
    let dir = tempfile::tempdir().unwrap();
    let policies = r#"@id("glass") @review("dba, security") @reviewWithin("2h") permit (principal, action in Action::"sql:*", resource);
@id("jobs") @review("ops") permit (principal, action, resource in Schema::"shop/shop.app");"#;
    let glass = "{groups: [security, dba], within: 2h}";
    let all: String = [
        case("delete from orders", &format!("permit, obligations: {{reviewAfterwards: {glass}}}")),
        case(
            "select * from app.jobs",
            &format!("permit, obligations: {{reviewAfterwards: [{glass}, {{groups: [ops]}}]}}"),
        ),
        case("begin", "permit, obligations: {}"),
    ]
    .concat();
    cases_of(dir.path(), policies, &all).unwrap();
    let wrong = case("select * from app.jobs", "permit, obligations: {reviewAfterwards: {groups: [dba]}}");
    let told = cases_of(dir.path(), policies, &wrong).unwrap_err().to_string();
    let bound = "bound by reviewed afterwards by dba or security within 2 h (glass), reviewed afterwards by ops within 24 h (jobs)";
    assert!(told.contains(bound), "{told}");
    let faulty = case("select 1", "permit, obligations: {reviewAfterwards: {within: 2h}}");
    let told = cases_of(dir.path(), policies, &faulty).unwrap_err().to_string();
    assert!(told.contains("cases[0].obligations.reviewAfterwards.groups: must name"), "{told}");
}

#[test]
fn what_is_wrong_with_cases_is_told_with_its_line() {
    let dir = tempfile::tempdir().unwrap();
    for (cases, says) in [
        ("- {name: c}\n", ":6: cases[0].principal: is required"),
        (&*case("select 1", "maybe"), "cases[0].expect"),
        (&*case("select 1", "permit, at: noon"), "cases[0].at: expected a time"),
        (&*case("select 1", "permit, source: here"), "cases[0].source"),
        (&*case("select 1", "permit, colour: red"), "no such field"),
        (&*case("select 1", "permit, by: [nobody]"), "there is no policy nobody"),
        ("  []\n", "there is no case"),
    ] {
        let told = cases_of(dir.path(), POLICIES, cases).unwrap_err().to_string();
        assert!(told.contains(says), "{says}: {told}");
    }
    let broken =
        cases_of(dir.path(), "@id(\"a\")\n\npermit (principal, action, resource) when { context.x };", "").unwrap_err();
    assert!(broken.to_string().contains("all.cedar:1: policy a"), "{broken}");
}

#[test]
fn a_cedar_file_is_as_good_as_a_manifest() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a.cedar"), POLICIES).unwrap();
    let manifests = load(&[dir.path().to_owned()]).unwrap();
    assert_eq!(manifests.len(), 3);
    for manifest in &manifests {
        let text = crate::yaml::emit(&manifest::render(&manifest.resource));
        let file = dir.path().join("back.yaml");
        std::fs::write(&file, &text).unwrap();
        let back = load(std::slice::from_ref(&file)).unwrap();
        std::fs::remove_file(file).unwrap();
        assert_eq!(back[0].resource, manifest.resource, "{text}");
    }
}
