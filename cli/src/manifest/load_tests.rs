use super::*;
use crate::manifest::render;

fn faults(text: &str) -> Vec<String> {
    let (mut manifests, mut faults) = (Vec::new(), Vec::new());
    parse("f.yaml", text, Path::new("."), &mut manifests, &mut faults);
    twice(&manifests, &mut faults);
    faults.iter().map(ToString::to_string).collect()
}

const GOOD: &str = "\
# A comment before everything.
apiVersion: postern/v1
kind: Issuer
metadata:
  name: corp
spec:
  url: https://issuer.example
  audiences: [postern]
  groupsClaim: realm.groups
  groupsPrefix: 'corp:'
  algorithms: [ES256, EdDSA]
  leeway: 10s
  maxAge: 1h30m
  maxTokenTtl: 1h
  tokenTtl: 30m
---
apiVersion: postern/v1
kind: Target
metadata:
  name: shop
  labels: {env: prod, tier: \"1\"}
  revision: 7
  createdAt: 2026-11-21T10:00:00.000Z
spec:
  protocol: postgres
  address: db.internal:5432
  tls:
    mode: verify-full
    ca: |
      -----BEGIN CERTIFICATE-----
      abc
      -----END CERTIFICATE-----
    serverName: db
    direct: true
  credential: {username: app, secret: shop-password}
  agentPool: lab
  databases: [shop]
  limits: {sessions: 80, operationsPerSecond: 2000}
  spareSessions: 2
---
apiVersion: postern/v1
kind: Policy
metadata: {name: held}
spec:
  effect: permit
  principals: {groups: [analysts], subjects: [corp/ci]}
  targets: {names: [shop], labels: {env: prod}}
  actions: ['sql:delete']
  resources: [public.*]
  when: {bounded: true, authentication: {maxTokenTtl: 20m}}
  approval: {groups: [dba], count: 2, expires: 15m}
  onRequest:
    review: [{groups: [dba, lead], count: 2}, {groups: [security], count: 1}]
    maxDuration: 2h
    expires: 30m
    minReason: 10
    autoApprove:
      - {name: office, groups: [sre], labels: {env: test}, hours: {from: '08:00', to: '18:00', days: [mon, fri]}, maxDuration: 10m, maxPerDay: 3}
  limits: {connectionsPerSecond: 2, inFlightBytes: 16384}
  obligations: {rowLimit: 1000, statementTimeout: 30s, readOnly: true, masks: [m3, m5], durability: quorum, reviewAfterwards: {groups: [dba], within: 2h}}
  reason: a human looks first
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: m1}
spec:
  targets: {names: ['*']}
  columns: [public.customers.email]
  mask: null
  exemptGroups: [dba]
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: m2}
spec:
  targets: {names: ['*']}
  columns: [public.customers.card]
  mask: {partial: {keepLast: 4}}
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: m3}
spec:
  targets: {names: ['*']}
  columns: [public.customers.name, public.customers.city]
  mask: {redact: {text: hidden}}
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: m4}
spec:
  targets: {names: ['*']}
  columnsMatching: ['(?i)birth']
  types: [date]
  labels: ['^pii$', 'anon:']
  mask: {truncate: {to: year}}
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: m5}
spec:
  onlyByPolicy: true
  columns: [public.customers.salary]
  mask: {bucket: {width: 1000}}
  opaque: true
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: m6}
spec:
  targets: {names: ['*']}
  columns: [public.customers.card]
  mask: {digits: {luhn: true}}
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: m7}
spec:
  targets: {names: ['*']}
  columns: [public.customers.phone]
  mask: digits
---
apiVersion: postern/v1
kind: MaskingRule
metadata: {name: m8}
spec:
  targets: {names: ['*']}
  detect: [iban, jwt]
  mask: hash
---
apiVersion: postern/v1
kind: Secret
metadata: {name: shop-password}
spec: {value: correct horse}
---
apiVersion: postern/v1
kind: Target
metadata: {name: t-kv}
spec:
  protocol: postgres
  address: db:5432
  credential: {username: app, vaultKv: {path: team/shop, field: pw, version: 3}}
---
apiVersion: postern/v1
kind: Target
metadata: {name: t-lease}
spec:
  protocol: postgres
  address: db:5432
  credential: {vaultDatabase: {mount: db, role: reader}}
---
apiVersion: postern/v1
kind: Target
metadata: {name: t-certificate}
spec:
  protocol: postgres
  address: db:5432
  tls: {mode: require}
  credential: {username: app, type: certificate, file: /run/secrets/db.pem}
---
apiVersion: postern/v1
kind: Role
metadata: {name: target-editor}
spec:
  description: may change targets
  grants:
    - {objects: [targets], verbs: [get, list, update]}
    - {objects: ['*'], verbs: [get]}
---
apiVersion: postern/v1
kind: RoleBinding
metadata: {name: editors}
spec:
  role: target-editor
  subjects: {groups: [dba], subjects: [corp/alice]}
---
apiVersion: postern/v1
kind: ServiceAccount
metadata: {name: nightly}
spec:
  description: the nightly reports
  publicKey: |
    -----BEGIN PUBLIC KEY-----
    AA
    -----END PUBLIC KEY-----
  jwks: '{\"keys\":[]}'
  groups: [dba]
  networks: [10.0.0.0/8]
  maxTokenTtl: 10m
  disabled: true
---
apiVersion: postern/v1
kind: Issuer
metadata: {name: github}
spec:
  preset: github-actions
  url: https://github.acme.example/_services/token
  audiences: [postern]
  jwksUri: https://github.acme.example/_services/token/.well-known/jwks
  subjectClaim: job_workflow_ref
  claimGroups:
  - {claim: repository, prefix: 'repository:'}
  - {claim: /scopes~1x/y, form: spaces}
  requiredClaims:
  - {claim: repository_owner, values: [acme]}
  - {claim: ref, values: [refs/heads/main, refs/tags/**]}
---
apiVersion: postern/v1
kind: Issuer
metadata: {name: cluster}
spec:
  preset: kubernetes
  url: https://k8s.acme.example
  audiences: [postern]
  jwks: '{\"keys\": []}'
---
";

#[test]
fn what_is_shown_reads_back() {
    let (mut manifests, mut wrong) = (Vec::new(), Vec::new());
    parse("f.yaml", GOOD, Path::new("."), &mut manifests, &mut wrong);
    assert_eq!(wrong, vec![]);
    assert_eq!(manifests.len(), 20);
    for manifest in &manifests {
        let text = crate::yaml::emit(&render(&manifest.resource));
        let (mut again, mut wrong) = (Vec::new(), Vec::new());
        parse("again.yaml", &text, Path::new("."), &mut again, &mut wrong);
        assert_eq!(wrong, vec![], "{text}");
        if manifest.kind == Kind::Secret {
            assert!(!text.contains("horse"), "{text}");
        } else {
            assert_eq!(again[0].resource, manifest.resource, "{text}");
        }
    }
}

#[test]
fn every_fault_is_told_at_its_line() {
    let text = "\
apiVersion: postern/v2
kind: Policy
metadata:
  name: Bad_Name
  colour: red
spec:
  effect: maybe
  principals: {groups: analysts}
  targets: {names: ['*']}
  actions: ['sql:fly', 'sql:select']
  approval: {groups: [dba], expires: soon}
---
apiVersion: postern/v1
kind: Target
metadata: {name: a}
spec:
  protocol: postgres
  address: nowhere
  tls: {mode: verify-full, caFile: /does/not/exist}
  credential: {username: app}
  disabled: maybe
---
apiVersion: postern/v1
kind: Gadget
metadata: {name: x}
spec: {}
---
just text
---
apiVersion: postern/v1
kind: Secret
metadata: {name: s}
spec: {value: a, valueFrom: {env: POSTERN_TEST_NO_SUCH_VARIABLE}}
---
a: [unclosed
";
    let told = faults(text);
    let expect = [
        "f.yaml:1: apiVersion: expected postern/v1, not \"postern/v2\"",
        "f.yaml:4: metadata.name: ",
        "f.yaml:5: metadata.colour: no such field; known here: ",
        "f.yaml:7: spec.effect: expected permit, deny, not \"maybe\"",
        "f.yaml:8: spec.principals.groups: expected a list, found a single value",
        "f.yaml:10: spec.actions[0]: ",
        "f.yaml:11: spec.approval.expires: expected a duration such as 90s, 15m or 1h30m, not \"soon\"",
        "f.yaml:18: spec.address: ",
        "f.yaml:19: spec.tls.caFile: cannot read /does/not/exist",
        "f.yaml:21: spec.disabled: expected true or false",
        "f.yaml:24: kind: expected Secret, Issuer, Target, Policy, MaskingRule, Role, RoleBinding, ServiceAccount, Webhook, not \"Gadget\"",
        "f.yaml:28: expected a mapping, found a single value",
        "f.yaml:33: spec: expected exactly one of value",
    ];
    for start in expect {
        assert!(told.iter().any(|fault| fault.starts_with(start)), "{start}\n\n{}", told.join("\n"));
    }
    // The last line has no end.
    assert!(told.iter().any(|fault| fault.starts_with("f.yaml:3") && !fault.contains("spec")), "{}", told.join("\n"));
    let effects = told.iter().filter(|fault| fault.contains("spec.effect")).count();
    assert_eq!(effects, 1, "{}", told.join("\n"));
    assert!(!told.iter().any(|fault| fault.contains("correct horse")));
}

#[test]
fn a_limit_of_nought_is_a_fault_and_not_none() {
    let told = faults(
        "\
apiVersion: postern/v1
kind: Target
metadata: {name: a}
spec:
  protocol: postgres
  address: db:5432
  limits:
    sessions: 0
    operationsPerSecond: many
    operations: 3
",
    );
    for start in [
        "f.yaml:8: spec.limits.sessions: must be at least 1; leave it out for no limit",
        "f.yaml:9: spec.limits.operationsPerSecond: expected a whole number",
        "f.yaml:10: spec.limits.operations: no such field; known here: connectionsPerSecond, inFlightBytes, ",
    ] {
        assert!(told.iter().any(|fault| fault.starts_with(start)), "{start}\n\n{}", told.join("\n"));
    }
}

#[test]
fn one_object_in_two_places() {
    let object = "apiVersion: postern/v1\nkind: Secret\nmetadata: {name: s}\nspec: {value: a}\n";
    let told = faults(&format!("{object}---\n{object}"));
    assert_eq!(told, ["f.yaml:8: metadata.name: Secret s is declared twice, first at f.yaml:3"]);
}

#[test]
fn files_and_folders() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("password", "hunter2\n");
    write("b.yaml", "apiVersion: postern/v1\nkind: Secret\nmetadata: {name: s}\nspec: {valueFrom: {file: password}}\n");
    write("ignored.txt", "x: [");
    write("a.yml", "# nothing but a comment\n");
    let manifests = load(&[dir.path().to_owned()]).unwrap();
    let Some(pb::resource::Spec::Secret(secret)) = &manifests[0].resource.spec else { panic!("a secret") };
    assert_eq!(secret.source, Some(pb::secret_spec::Source::Value("hunter2".into())));
    let faults = load(&[dir.path().join("missing.yaml")]).unwrap_err();
    assert!(faults[0].to_string().contains("missing.yaml: cannot read it"), "{}", faults[0]);
}

#[test]
fn the_examples_are_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let (mut manifests, mut wrong) = (Vec::new(), Vec::new());
    for file in expand(&examples).unwrap() {
        // The demo sets the variable; a test must not change its process's environment.
        let text = std::fs::read_to_string(&file).unwrap().replace("valueFrom: {env: SHOP_PASSWORD}", "value: x");
        parse(&shown(&file), &text, &examples, &mut manifests, &mut wrong);
    }
    twice(&manifests, &mut wrong);
    assert_eq!(wrong, vec![]);
    assert!(manifests.len() >= 7);
}

#[test]
fn a_preset_demands_at_its_line_what_makes_it_safe() {
    let told = |spec: &str| {
        faults(&format!(
            "apiVersion: postern/v1\nkind: Issuer\nmetadata: {{name: ci}}\nspec:\n  audiences: [postern]\n{spec}"
        ))
    };
    assert_eq!(told("  preset: gitlab-ci\n  requiredClaims: [{claim: project_path, values: [acme/app]}]\n"), [""; 0]);
    let open = told("  preset: github-actions\n");
    assert!(open.len() == 1 && open[0].contains("spec.requiredClaims: must pin down one of repository"), "{open:?}");
    let wide = told("  preset: github-actions\n  requiredClaims:\n  - claim: repository\n    values: [\"*/app\"]\n");
    assert!(wide.len() == 1 && wide[0].starts_with("f.yaml:7: spec.requiredClaims"), "{wide:?}");
    let unknown = told("  preset: bitbucket\n  url: https://x.example\n");
    assert!(unknown[0].starts_with("f.yaml:6: spec.preset: must be one of github-actions"), "{unknown:?}");
    let form = told("  url: https://x.example\n  claimGroups: [{claim: g, form: csv}]\n");
    assert!(form[0].starts_with("f.yaml:7: spec.claimGroups[0].form"), "{form:?}");
    assert!(told("  url: https://x.example\n  requiredClaims: [{claim: g}]\n")[0].contains("at least one value"));
}

/// What the guides show can be applied as it stands.
#[test]
fn the_issuers_of_the_guides_are_valid() {
    let base = tempfile::tempdir().unwrap();
    for file in ["jwks.json", "bundle.json"] {
        std::fs::write(base.path().join(file), r#"{"keys": []}"#).unwrap();
    }
    std::fs::write(base.path().join("id-ca.pem"), "pem").unwrap();
    let guides =
        [include_str!("../../../docs/guides/issuers.md"), include_str!("../../../docs/guides/identity-presets.md")];
    let mut names = Vec::new();
    for block in guides.iter().flat_map(|guide| guide.split("```yaml\n").skip(1)) {
        let shown = block.split("```").next().unwrap();
        if !shown.starts_with("apiVersion") {
            continue;
        }
        let shown = shown.replace("TENANT-ID", "11111111-2222-3333-4444-555555555555");
        let (mut manifests, mut wrong) = (Vec::new(), Vec::new());
        parse("guide.yaml", &shown, base.path(), &mut manifests, &mut wrong);
        assert_eq!(wrong, vec![], "{shown}");
        names.extend(manifests.iter().map(|manifest| manifest.resource.metadata.clone().unwrap().name));
    }
    assert_eq!(names, ["corp", "github", "gitlab", "k8s-prod", "spire", "gcp", "azure"]);
}
