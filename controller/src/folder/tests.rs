use std::fs;

use tempfile::TempDir;
use translate::{Settings, Severity};

use super::*;

const SERVICE: &str =
    "apiVersion: v1\nkind: Service\nmetadata:\n  name: cart\n  namespace: shop\nspec:\n  ports:\n  - port: 80\n";

fn folder(files: &[(&str, &str)]) -> (TempDir, Folder) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in files {
        write(&dir, name, text);
    }
    let folder = Folder::open(dir.path(), &Settings::default()).expect("a folder that opens");
    (dir, folder)
}

fn write(dir: &TempDir, name: &str, text: &str) {
    let path = dir.path().join(name);
    fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
    fs::write(path, text).expect("a file");
}

fn lines(dir: &TempDir, folder: &Folder) -> Vec<String> {
    let root = format!("{}/", dir.path().display());
    folder.findings().iter().map(|finding| finding.to_string().replace(&root, "")).collect()
}

#[test]
fn objects_come_from_documents_lists_and_json_in_nested_folders() {
    let (dir, folder) = folder(&[
        ("a.yaml", &format!("# first\n---\n{SERVICE}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: c}}\n")),
        (
            "deep/er/b.yml",
            "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Secret\n  metadata: {name: s}\n  stringData: {a: b}\n  data: {c: ZA==}\n",
        ),
        (
            "c.json",
            r#"{"apiVersion": "gateway.networking.k8s.io/v1beta1", "kind": "HTTPRoute", "metadata": {"name": "r"}, "spec": {}}"#,
        ),
        (".hidden.yaml", "nonsense"),
        ("notes.txt", "nonsense"),
    ]);
    assert_eq!(lines(&dir, &folder), Vec::<String>::new());
    let resources = folder.resources();
    assert!(resources.get::<k8s_openapi::api::core::v1::Service>("shop", "cart").is_some());
    assert!(resources.get::<k8s_openapi::api::core::v1::Namespace>("", "c").is_some());
    assert!(resources.get::<crds::gateway::HTTPRoute>("default", "r").is_some());
    let secret = resources.get::<k8s_openapi::api::core::v1::Secret>("default", "s").expect("the secret");
    let data: Vec<_> = secret.data.iter().flatten().map(|(name, value)| (name.as_str(), value.0.as_slice())).collect();
    assert_eq!(data, [("a", b"b".as_slice()), ("c", b"d".as_slice())]);
    assert_eq!((folder.files(), folder.len()), (3, 4));
}

#[test]
fn an_ingress_without_class_gets_the_newest_default_class_as_an_api_server_gives_it() {
    let class = |name: &str, created: &str| {
        let metadata = format!(
            r#"{{name: {name}, creationTimestamp: "{created}", annotations: {{ingressclass.kubernetes.io/is-default-class: "true"}}}}"#
        );
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {metadata}\nspec: {{controller: c}}\n---\n"
        )
    };
    let ingress = |name: &str, annotations: &str, spec: &str| {
        let metadata = format!("{{name: {name}, namespace: shop, annotations: {{{annotations}}}}}");
        let backend = "defaultBackend: {service: {name: cart, port: {number: 80}}}";
        format!(
            "apiVersion: networking.k8s.io/v1\nkind: Ingress\nmetadata: {metadata}\nspec: {{{backend}{spec}}}\n---\n"
        )
    };
    let classes = class("older", "2026-01-01T00:00:00Z") + &class("newer", "2026-02-01T00:00:00Z");
    let ingresses = ingress("without", "", "")
        + &ingress("annotated", "kubernetes.io/ingress.class: other", "")
        + &ingress("named", "", ", ingressClassName: older");
    let (_dir, folder) = folder(&[("a.yaml", &(classes + &ingresses))]);
    let class_of = |name: &str| {
        let ingress = folder.resources().get::<k8s_openapi::api::networking::v1::Ingress>("shop", name);
        ingress.expect("the Ingress").spec.as_ref().expect("a spec").ingress_class_name.clone()
    };
    assert_eq!(class_of("without").as_deref(), Some("newer"));
    assert_eq!(class_of("annotated"), None);
    assert_eq!(class_of("named").as_deref(), Some("older"));
}

#[test]
fn classes_and_namespaces_are_added_only_where_there_are_none() {
    let (_dir, folder) = folder(&[
        ("a.yaml", SERVICE),
        (
            "class.yaml",
            "apiVersion: networking.k8s.io/v1\nkind: IngressClass\nmetadata: {name: other}\nspec: {controller: e.com/x}\n",
        ),
    ]);
    let resources = folder.resources();
    let names = |map: Vec<&ObjectKey>| map.into_iter().map(|key| key.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(resources.ingress_classes.keys().collect()), ["other"]);
    assert_eq!(names(resources.gateway_classes.keys().collect()), ["sluice"]);
    assert_eq!(names(resources.namespaces.keys().collect()), ["shop"]);
}

#[test]
fn every_defect_is_told_with_its_place_and_hides_nothing_else() {
    let text = "apiVersion: v1\nkind: Service\nmetadata:\n  name: bad\nspec:\n  ports:\n  - port: eighty\n---\njust text\n---\n\
        kind: [\n---\napiVersion: networking.k8s.io/v1beta1\nkind: Ingress\nmetadata: {name: old}\n---\n\
        apiVersion: gateway.networking.k8s.io/v1\nkind: HttpRoute\nmetadata: {name: r}\n---\n\
        apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata:\n  k: '*s3cret*'\n---\n";
    let (dir, folder) = folder(&[("x.yaml", &format!("{text}{SERVICE}  typo: 1\n"))]);
    let found = lines(&dir, &folder);
    let expect = [
        ("x.yaml:7:11: Service default/bad: spec.ports[0].port: ", "(InvalidField)"),
        ("x.yaml:9:1: ", "(NotAnObject)"),
        ("x.yaml:1", "(InvalidYaml)"),
        ("x.yaml:13:1: Ingress (networking.k8s.io/v1beta1) ", "(UnknownKind)"),
        ("x.yaml:17:1: HttpRoute (gateway.networking.k8s.io/v1) ", "(UnknownKind)"),
        ("x.yaml:21:1: Deployment (apps/v1) ", "(NotRead)"),
        ("x.yaml:29:6: Secret default/s: data.k: ", "(InvalidField)"),
        ("x.yaml:39:3: Service shop/cart: spec.typo: ", "(UnknownField)"),
    ];
    assert_eq!(found.len(), expect.len(), "{found:#?}");
    for (line, (start, end)) in found.iter().zip(expect) {
        assert!(line.starts_with(start) && line.ends_with(end), "{line}\n{start} ... {end}");
    }
    assert!(!found.iter().any(|line| line.contains("s3cret")), "{found:#?}");
    assert_eq!(folder.findings().iter().filter(|finding| finding.severity == Severity::Notice).count(), 1);
    assert_eq!(folder.len(), 1);
}

#[test]
fn the_same_object_in_two_files_is_told_and_the_first_is_used() {
    let (dir, folder) = folder(&[("a.yaml", SERVICE), ("b.yaml", &SERVICE.replace("80", "81"))]);
    let found = lines(&dir, &folder);
    assert!(
        found.len() == 1 && found[0].starts_with("b.yaml:1:1: Service shop/cart: ") && found[0].contains("a.yaml:1"),
        "{found:#?}"
    );
    let service = folder.resources().get::<k8s_openapi::api::core::v1::Service>("shop", "cart").expect("the service");
    assert_eq!(service.spec.as_ref().and_then(|spec| spec.ports.as_ref()).map(|ports| ports[0].port), Some(80));
}

#[test]
fn a_reload_touches_only_what_changed_and_a_broken_file_keeps_its_objects() {
    let other = SERVICE.replace("cart", "other");
    let (dir, mut folder) = folder(&[("a.yaml", SERVICE), ("b.yaml", &other)]);
    let port = |folder: &Folder| {
        let service = folder.resources().get::<k8s_openapi::api::core::v1::Service>("shop", "cart").cloned();
        service.map(|service| {
            service.spec.iter().flat_map(|spec| spec.ports.iter().flatten()).map(|port| port.port).sum::<i32>()
        })
    };
    let changed = |change: Change| change.objects.into_iter().collect::<Vec<_>>();
    assert_eq!(folder.reload().expect("a reload"), Change::default());

    write(&dir, "a.yaml", &SERVICE.replace("80", "81"));
    assert_eq!(changed(folder.reload().expect("a reload")), ["Service shop/cart"]);
    assert_eq!(port(&folder), Some(81));

    write(&dir, "a.yaml", "kind: [");
    assert_eq!(changed(believed(&mut folder)), Vec::<String>::new());
    assert_eq!((port(&folder), folder.findings().len()), (Some(81), 1));
    // Twice broken is as good as once.
    write(&dir, "a.yaml", "kind: [[");
    believed(&mut folder);
    assert_eq!(port(&folder), Some(81));

    write(&dir, "a.yaml", SERVICE);
    assert_eq!(changed(folder.reload().expect("a reload")), ["Service shop/cart"]);
    assert_eq!((port(&folder), folder.findings().len()), (Some(80), 0));

    fs::remove_file(dir.path().join("a.yaml")).expect("a removal");
    assert!(folder.mid_edit());
    assert_eq!(changed(folder.reload().expect("a reload")), ["Service shop/cart"]);
    assert_eq!(port(&folder), None);
}

/// Reloads until what the files hold is believed; gives the last change.
fn believed(folder: &mut Folder) -> Change {
    let began = Instant::now();
    loop {
        let change = folder.reload().expect("a reload");
        if !folder.is_doubted() {
            return change;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "never believed");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn half_a_file_is_not_believed_at_once() {
    let two = format!("{SERVICE}---\n{}", SERVICE.replace("cart", "other"));
    let (dir, mut folder) = folder(&[("a.yaml", &two)]);
    // The second object is about to follow.
    write(&dir, "a.yaml", &two[..SERVICE.len() + 20]);
    assert_eq!(folder.reload().expect("a reload"), Change::default());
    assert!(folder.is_doubted());
    write(&dir, "a.yaml", &two);
    assert_eq!(folder.reload().expect("a reload"), Change::default());
    assert!(!folder.is_doubted());
    // A new file that ends within a line.
    write(&dir, "b.yaml", "kind: Conf");
    assert_eq!(folder.reload().expect("a reload"), Change::default());
    assert!(folder.is_doubted());
    // An edit that leaves the end as it was is believed at once, and one that stays so is in the end.
    write(&dir, "a.yaml", &two.replacen("port: 80\n", "port: 8\n", 1));
    assert_eq!(folder.reload().expect("a reload").objects, BTreeSet::from(["Service shop/cart".to_owned()]));
    write(&dir, "a.yaml", &two[..SERVICE.len()]);
    believed(&mut folder);
    assert_eq!(folder.len(), 1);
}

#[test]
fn a_file_that_is_empty_for_a_moment_keeps_its_objects_and_one_that_stays_so_loses_them() {
    let (dir, mut folder) = folder(&[("a.yaml", SERVICE)]);
    write(&dir, "a.yaml", "");
    assert_eq!(folder.reload().expect("a reload"), Change::default());
    assert_eq!(folder.len(), 1);
    write(&dir, "a.yaml", SERVICE);
    assert_eq!(folder.reload().expect("a reload"), Change::default());
    write(&dir, "a.yaml", "");
    let began = Instant::now();
    while folder.reload().expect("a reload").objects.is_empty() {
        assert!(began.elapsed() < Duration::from_secs(20), "never believed");
    }
    assert!(folder.is_empty());
}

#[test]
fn a_folder_that_is_away_keeps_everything() {
    let (dir, mut folder) = folder(&[("sub/a.yaml", SERVICE)]);
    folder.root = dir.path().join("sub");
    folder.files.clear();
    folder.reload().expect("a reload");
    fs::rename(dir.path().join("sub"), dir.path().join("aside")).expect("a rename");
    assert!(folder.reload().is_err());
    assert_eq!(folder.len(), 1);
}

#[tokio::test]
async fn the_watcher_tells_of_saves_by_rename_and_in_new_folders() {
    let (dir, mut folder) = folder(&[("a.yaml", SERVICE)]);
    let mut watcher = Watcher::new(dir.path()).expect("a watcher");
    let limit = std::time::Duration::from_secs(20);
    let mut wait_for = async |folder: &mut Folder, expected: &str| loop {
        tokio::time::timeout(limit, watcher.changed()).await.expect("a change in time").expect("a watcher that lives");
        if folder.reload().expect("a reload").objects.contains(expected) {
            break;
        }
    };
    write(&dir, ".a.yaml.tmp", &SERVICE.replace("80", "82"));
    fs::rename(dir.path().join(".a.yaml.tmp"), dir.path().join("a.yaml")).expect("a rename");
    wait_for(&mut folder, "Service shop/cart").await;
    fs::create_dir(dir.path().join("sub")).expect("a folder");
    write(&dir, "sub/b.yaml", &SERVICE.replace("cart", "other"));
    wait_for(&mut folder, "Service shop/other").await;
}

#[tokio::test]
async fn files_that_are_renamed_into_place_are_complete_and_read_together() {
    let long = [SERVICE, "---\n", &SERVICE.replace("cart", "other")].concat();
    let (dir, mut folder) = folder(&[("a.yaml", &long), ("b.yaml", "# nothing\n")]);
    let mut watcher = Watcher::new(dir.path()).expect("a watcher");
    let limit = Duration::from_secs(20);
    let changed = |folder: &mut Folder, edits: &Edits| folder.reload_after(edits).expect("a reload").objects;
    // A shorter text with another end would be doubted if it were written in place.
    let (shorter, other) = (SERVICE.replace("80", "82"), SERVICE.replace("cart", "third"));
    let edits = loop {
        for (name, text) in [("a.yaml", &shorter), ("b.yaml", &other)] {
            write(&dir, &format!(".{name}.tmp"), text.trim_end());
            fs::rename(dir.path().join(format!(".{name}.tmp")), dir.path().join(name)).expect("a rename");
        }
        let (_, edits) = tokio::time::timeout(limit, watcher.changed()).await.expect("in time").expect("a watcher");
        // What the system tells late, it tells of the next edit.
        if ["a.yaml", "b.yaml"].iter().all(|name| edits.is_complete(&dir.path().join(name))) {
            break edits;
        }
    };
    let all = ["Service shop/cart", "Service shop/other", "Service shop/third"].map(str::to_owned);
    assert_eq!(changed(&mut folder, &edits), BTreeSet::from(all));
    assert_eq!(folder.len(), 2);
    // Written in place it is doubted, also after it came by a rename.
    write(&dir, "a.yaml", &long);
    while folder.len() < 3 {
        let (_, edits) = tokio::time::timeout(limit, watcher.changed()).await.expect("in time").expect("a watcher");
        changed(&mut folder, &edits);
    }
    write(&dir, "a.yaml", &long[..SERVICE.len() + 20]);
    while !folder.is_doubted() {
        let (_, edits) = tokio::time::timeout(limit, watcher.changed()).await.expect("in time").expect("a watcher");
        assert_eq!(changed(&mut folder, &edits), BTreeSet::new());
    }
}
