//! Every test that docs/features.md names is there.

use std::path::Path;

#[test]
fn each_feature_has_its_tests() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let document = read("docs/features.md");
    let mut missing = Vec::new();
    let mut features = 0;
    for row in document.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| feature |")) {
        features += 1;
        let tests: Vec<&str> = row.rsplit("| ").next().unwrap().split('`').skip(1).step_by(2).collect();
        if tests.is_empty() {
            missing.push(format!("a test for: {row}"));
        }
        for test in tests {
            let (place, name) = test.split_once(' ').unwrap_or((test, ""));
            let there = match (place, name.split_once("::")) {
                ("golden", None) => root.join(format!("controller/translate/tests/golden/{name}.yaml")).exists(),
                ("proxy", Some((file, function))) => {
                    defines(&read(&format!("dataplane/tests/proxy/{file}.rs")), function)
                }
                ("laws", Some((file, function))) => {
                    defines(&read(&format!("controller/tests/laws/{file}.rs")), function)
                }
                ("control_plane", None) => std::fs::read_dir(root.join("controller/tests/control_plane"))
                    .unwrap()
                    .any(|file| defines(&std::fs::read_to_string(file.unwrap().path()).unwrap_or_default(), name)),
                ("unit", Some((file, function))) => defines(&read(file), function),
                ("memory", None) => defines(&read("dataplane/tests/memory.rs"), name),
                ("run" | "check" | "explain", None) => defines(&read(&format!("controller/tests/{place}.rs")), name),
                ("e2e", None) => read("e2e/src/scenarios/mod.rs").contains(&format!("\"{name}\"")),
                _ => false,
            };
            if !there {
                missing.push(test.to_owned());
            }
        }
    }
    assert!(features > 30, "the tables were read");
    assert!(missing.is_empty(), "docs/features.md names what is not there: {missing:#?}");
}

fn defines(source: &str, function: &str) -> bool {
    source.contains(&format!("fn {function}("))
}
