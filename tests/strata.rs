//! The layers of `src`: imports go down only.
//!
//! `src/lib.rs` lists the layers from the lowest to the highest, and each `mod.rs` the files of its folder in the same way.
//! A file may import from what is listed before it. `docs/design.md` lists the same layers, and `docs/strata.svg` draws them.
//! This test compares both; `make strata` (`PEP788_WRITE_STRATA=1`) writes them.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// No file may be longer, but for the sources of the headers, which are mostly comments.
const LONGEST: usize = 400;
const SOURCES_OF_HEADERS: [&str; 4] =
    ["capi/accepted.rs", "capi/draft.rs", "capi/gilstate.rs", "capi/doctor.rs"];

/// A file of `src`, or (for a layer that is a folder) its `mod.rs`.
struct Module {
    /// `["gate", "record"]`; of a layer, `["gate"]`.
    path: Vec<String>,
    file: PathBuf,
}

impl Module {
    fn name(&self) -> String {
        self.path.join("/")
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.file).unwrap_or_else(|why| panic!("{}: {why}", self.name()))
    }

    fn is_folder(&self) -> bool {
        self.file.ends_with("mod.rs")
    }
}

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Names in `mod name;` lines, as they come.
fn mods(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim);
    let names = lines.filter_map(|line| {
        let rest = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
        rest.strip_prefix("mod ")?.strip_suffix(';').map(str::to_owned)
    });
    names.collect()
}

/// All modules, in the order in which they may import each other. A folder comes after its files, as what it re-exports is theirs.
fn modules(source: &Path) -> Vec<Module> {
    let mut all = Vec::new();
    let layers = mods(&std::fs::read_to_string(source.join("lib.rs")).expect("lib.rs"));
    for layer in layers {
        let folder = source.join(&layer);
        if !folder.is_dir() {
            let file = source.join(&layer).with_extension("rs");
            all.push(Module { path: vec![layer], file });
            continue;
        }
        let file = folder.join("mod.rs");
        let names = mods(&std::fs::read_to_string(&file).expect("mod.rs"));
        for name in names {
            let file = folder.join(&name).with_extension("rs");
            all.push(Module { path: vec![layer.clone(), name], file });
        }
        all.push(Module { path: vec![layer], file });
    }
    all
}

/// Without comments, strings, and what is compiled for tests alone.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let mut code = String::new();
    for line in text.lines() {
        let line = line.split("//").next().unwrap_or_default();
        code.extend(line.split('"').step_by(2));
        code.push('\n');
    }
    code
}

/// The paths that begin with `crate::` or `super::`, groups resolved: `["crate", "gate", "record"]`.
fn imports(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    for root in ["crate", "super"] {
        let start = format!("{root}::");
        for (at, _) in code.match_indices(&start) {
            let before = code[..at].chars().next_back().unwrap_or(' ');
            if !before.is_alphanumeric() && before != '_' && before != ':' {
                follow(&code[at + start.len()..], vec![root.to_owned()], &mut found);
            }
        }
    }
    found
}

/// Adds the paths that go on with `rest`.
fn follow(rest: &str, path: Vec<String>, found: &mut Vec<Vec<String>>) {
    let rest = rest.trim_start();
    if let Some(group) = rest.strip_prefix('{') {
        let mut depth = 0;
        let mut begin = 0;
        for (at, character) in group.char_indices() {
            match character {
                '{' => depth += 1,
                '}' if depth == 0 => {
                    follow_item(&group[begin..at], &path, found);
                    return;
                }
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    follow_item(&group[begin..at], &path, found);
                    begin = at + 1;
                }
                _ => {}
            }
        }
        return;
    }
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let mut path = path;
    path.push(rest[..end].to_owned());
    match rest[end..].strip_prefix("::") {
        Some(more) => follow(more, path, found),
        None => found.push(path),
    }
}

fn follow_item(item: &str, path: &[String], found: &mut Vec<Vec<String>>) {
    if !item.trim().is_empty() {
        follow(item, path.to_vec(), found);
    }
}

/// The modules that a file imports from, by their place in `all`.
fn imported(module: &Module, all: &[Module], places: &HashMap<String, usize>) -> BTreeSet<usize> {
    let mut found = BTreeSet::new();
    for mut path in imports(&code(&module.text())) {
        let mut root = path.remove(0);
        // A module inside a file has one level more, and looks into its own file by the first.
        while root == "super" && path.first().is_some_and(|next| next == "super") {
            root = path.remove(0);
        }
        let mut whole = match root.as_str() {
            "super" if module.path.len() == 2 => vec![module.path[0].clone()],
            _ => Vec::new(),
        };
        whole.append(&mut path);
        let place = (1..=whole.len().min(2))
            .rev()
            .find_map(|length| places.get(&whole[..length].join("/")).copied());
        let own = places[&module.name()];
        match place {
            // Of its own folder: of a module inside it, or a name of its own.
            Some(place) if all[place].path == module.path[..1] && root == "super" => {}
            Some(place) if place != own => drop(found.insert(place)),
            _ => {}
        }
    }
    found
}

fn places(all: &[Module]) -> HashMap<String, usize> {
    all.iter().enumerate().map(|(place, module)| (module.name(), place)).collect()
}

/// Names that a file has from its folder's `mod.rs`, and not from the file where they are.
fn from_own_folder(module: &Module, places: &HashMap<String, usize>) -> Vec<String> {
    if module.path.len() == 1 {
        return Vec::new();
    }
    let code = code(&module.text());
    // What is indented is in a module inside the file.
    let lines: Vec<_> =
        code.split_inclusive(';').filter(|it| it.contains("\nuse super::")).collect();
    let all = imports(&lines.concat());
    let outside = all.into_iter().filter(|path| {
        let name = format!("{}/{}", module.path[0], path[1]);
        path[0] == "super" && !places.contains_key(&name)
    });
    outside.map(|path| path.join("::")).collect()
}

/// The complaints about `source`.
fn upward(source: &Path) -> Vec<String> {
    let all = modules(source);
    let places = places(&all);
    let mut wrong = Vec::new();
    for (place, module) in all.iter().enumerate().filter(|(_, module)| !module.is_folder()) {
        for name in from_own_folder(module, &places) {
            wrong.push(format!(
                "{} imports {name}, which is in another file of its folder",
                module.name()
            ));
        }
        for other in imported(module, &all, &places).into_iter().filter(|other| *other > place) {
            wrong.push(format!(
                "{} imports {}, which is above it",
                module.name(),
                all[other].name()
            ));
        }
    }
    wrong
}

#[test]
fn imports_go_down_only() {
    let wrong = upward(&source());
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn an_upward_import_is_seen() {
    // In a copy of the sources, one layer at a time.
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("strata");
    let _ = std::fs::remove_dir_all(&copy);
    for module in modules(&source()) {
        let to = copy.join(module.file.strip_prefix(source()).expect("in src"));
        std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
        std::fs::copy(&module.file, to).expect("a copy");
    }
    std::fs::copy(source().join("lib.rs"), copy.join("lib.rs")).expect("a copy");
    assert!(upward(&copy).is_empty());
    for (file, line, complaint) in [
        ("gate/gate.rs", "use crate::python::Api;", "gate/gate imports python,"),
        ("gate/fence.rs", "use super::gate::Gate;", "gate/fence imports gate/gate,"),
        (
            "thread/hold.rs",
            "use crate::{support::say, exit::{late, wait}};",
            "thread/hold imports exit/late,",
        ),
        ("gate/tally.rs", "\nuse super::Gate;", "gate/tally imports super::Gate,"),
        ("start.rs", "fn f() { crate::capi::ensure::f() }", "start imports capi/ensure,"),
    ] {
        let path = copy.join(file);
        let before = std::fs::read_to_string(&path).expect(file);
        std::fs::write(&path, format!("{line}\n{before}")).expect(file);
        let wrong = upward(&copy);
        assert!(wrong.iter().any(|wrong| wrong.starts_with(complaint)), "{file}: {wrong:?}");
        std::fs::write(&path, before).expect(file);
    }
}

#[test]
fn all_files_are_in_the_picture() {
    let known: BTreeSet<_> = modules(&source()).into_iter().map(|module| module.file).collect();
    let mut folders = vec![source()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("src") {
            let path = entry.expect("src").path();
            let name =
                path.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                // A part of the file that it is a model of, or stands in for on some systems.
                let is_part = name.ends_with("_model") || ["elsewhere"].contains(&&*name);
                assert!(is_part || name == "lib" || known.contains(&path), "{}", path.display());
            }
        }
    }
}

#[test]
fn no_file_is_long() {
    for module in modules(&source()) {
        let lines = module.text().lines().count();
        let name = format!("{}.rs", module.name());
        let may_be = lines <= LONGEST || SOURCES_OF_HEADERS.contains(&&*name);
        assert!(may_be, "{name} has {lines} lines: split it");
    }
}

/// `patch` is for Linux alone, and takes the place of some of its files elsewhere.
#[test]
fn systems_are_told_apart_in_os() {
    for module in modules(&source()).iter().filter(|it| !["os", "patch"].contains(&&*it.path[0])) {
        let code = code(&module.text());
        for word in
            ["target_os", "target_env", "target_family", "target_vendor", "cfg(unix", "cfg(windows"]
        {
            let name = module.name();
            assert!(!code.contains(word), "{name} has `{word}`: move what differs to src/os");
        }
    }
}

/// The first sentence of a file's comment.
fn what_for(module: &Module) -> String {
    let text = module.text();
    let comment = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let paragraph: Vec<_> = comment.take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ");
    match paragraph.find(". ") {
        Some(end) => paragraph[..=end].to_owned(),
        None => paragraph,
    }
}

/// In lines that a page has room for. All but the first are indented.
fn wrapped(text: &str, indent: usize) -> String {
    const WIDTH: usize = 100;
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one");
        if line.is_empty() {
            line.push_str(word);
        } else if indent + line.len() + 1 + word.len() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join(&format!("\n{}", " ".repeat(indent)))
}

/// A layer, as the pictures show it.
struct Layer {
    /// With `/` or `.rs`.
    name: String,
    what_for: String,
    /// The names of the layers that its files import from, the highest first.
    uses: Vec<String>,
    /// The name and the purpose of each of its files. Empty for a layer that is one file.
    files: Vec<(String, String)>,
}

/// The highest comes first.
fn layers() -> Vec<Layer> {
    let all = modules(&source());
    let places = places(&all);
    let layers: Vec<_> = all.iter().filter(|module| module.path.len() == 1).rev().collect();
    let describe = |layer: &&Module| {
        let files: Vec<_> =
            all.iter().filter(|m| m.path[0] == layer.path[0] && !m.is_folder()).collect();
        let below: BTreeSet<_> = files
            .iter()
            .flat_map(|file| imported(file, &all, &places))
            .map(|place| all[place].path[0].as_str())
            .collect();
        let names = layers.iter().map(|other| other.path[0].as_str());
        let uses = names.filter(|name| *name != layer.path[0] && below.contains(name));
        let slash = if layer.is_folder() { "/" } else { ".rs" };
        let inside = files.iter().filter(|file| file.path.len() == 2);
        Layer {
            name: format!("{}{slash}", layer.path[0]),
            what_for: what_for(layer),
            uses: uses.map(str::to_owned).collect(),
            files: inside.map(|file| (format!("{}.rs", file.path[1]), what_for(file))).collect(),
        }
    };
    layers.iter().map(describe).collect()
}

/// The layers and their files, as text.
fn list() -> String {
    let mut list = String::new();
    for layer in layers() {
        let _ = writeln!(list, "{}", layer.name);
        let _ = writeln!(list, "    {}", wrapped(&layer.what_for, 4));
        if !layer.uses.is_empty() {
            let uses = format!("imports {}", layer.uses.join(", "));
            let _ = writeln!(list, "    {}", wrapped(&uses, 4));
        }
        for (name, what_for) in layer.files {
            let _ = writeln!(list, "    {name:<18} {}", wrapped(&what_for, 23));
        }
    }
    list
}

/// The layers as a picture: one bar for each, and below its name a dot under each layer that it imports.
fn drawing() -> String {
    const BAR: usize = 30;
    const TOP: usize = 96;
    const COLUMN: usize = 26;
    const DOTS: usize = 590;
    let layers = layers();
    let bare = |layer: &Layer| layer.name.trim_end_matches('/').trim_end_matches(".rs").to_owned();
    let (width, height) = (DOTS + layers.len() * COLUMN + 14, TOP + layers.len() * BAR + 14);
    let mut svg = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"
     aria-labelledby="title" font-family="Helvetica, Arial, sans-serif" font-size="13">
  <title id="title">The layers of src, the highest first. A dot marks each layer that a layer imports; all dots are right of the diagonal, as imports go down only.</title>
  <!-- Written by `make strata`. The card has a background of its own, so it can be read on any page. -->
  <style>
    .card {{ fill: #ffffff; stroke: #d0d7de }} .bar {{ fill: #eef2f7 }} .own {{ fill: #afb8c1 }} .dot {{ fill: #1f6feb }}
    .text {{ fill: #1f2328 }} .soft {{ fill: #59636e }}
    @media (prefers-color-scheme: dark) {{
      .card {{ fill: #0d1117; stroke: #3d444d }} .bar {{ fill: #1c2128 }} .own {{ fill: #5b636d }} .dot {{ fill: #58a6ff }}
      .text {{ fill: #f0f6fc }} .soft {{ fill: #9198a1 }}
    }}
  </style>
  <rect class="card" x="0.5" y="0.5" width="{}" height="{}" rx="8"/>
  <text class="soft" x="20" y="30">Each layer imports from those that have a dot in its row.</text>
"##,
        width - 1,
        height - 1
    );
    for (row, layer) in layers.iter().enumerate() {
        let (y, x) = (TOP + row * BAR, DOTS + row * COLUMN + COLUMN / 2);
        let _ = write!(
            svg,
            r##"  <rect class="bar" x="12" y="{y}" width="{}" height="{}" rx="4"/>
  <text class="text" x="20" y="{}" font-weight="bold">{}</text>
  <text class="soft" x="120" y="{}" font-size="11">{}</text>
  <rect class="own" x="{}" y="{}" width="10" height="10" rx="2"/>
  <text class="text" transform="translate({x} {}) rotate(-50)" font-size="11">{}</text>
"##,
            width - 24,
            BAR - 4,
            y + 18,
            layer.name,
            y + 17,
            in_short(&layer.what_for),
            x - 5,
            y + 8,
            TOP - 8,
            bare(layer),
        );
        for (column, other) in layers.iter().enumerate() {
            if layer.uses.contains(&bare(other)) {
                let x = DOTS + column * COLUMN + COLUMN / 2;
                let _ =
                    writeln!(svg, r##"  <circle class="dot" cx="{x}" cy="{}" r="4"/>"##, y + 13);
            }
        }
    }
    svg.push_str("</svg>\n");
    svg
}

/// As much of a sentence as a bar has room for.
fn in_short(text: &str) -> String {
    const ROOM: usize = 84;
    let text = text.replace('`', "").replace('&', "&amp;").replace('<', "&lt;");
    if text.len() <= ROOM {
        return text;
    }
    let end = text[..ROOM].rfind(' ').unwrap_or(ROOM);
    format!("{} …", text[..end].trim_end_matches([',', ':', ';']))
}

#[test]
fn the_picture_is_current() {
    const BEGIN: &str = "<!-- Written by `make strata`. -->\n```\n";
    const END: &str = "```\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/design.md");
    let text = std::fs::read_to_string(&path).expect("docs/design.md");
    let begin = text.find(BEGIN).expect("a place for the picture") + BEGIN.len();
    let end = begin + text[begin..].find(END).expect("its end");
    let (list, drawing) = (list(), drawing());
    let drawn = path.with_file_name("strata.svg");
    if std::env::var_os("PEP788_WRITE_STRATA").is_some() {
        let new = format!("{}{list}{}", &text[..begin], &text[end..]);
        std::fs::write(&path, new).expect("docs/design.md");
        std::fs::write(&drawn, drawing).expect("docs/strata.svg");
    } else {
        assert!(text[begin..end] == list, "docs/design.md is not current; run `make strata`");
        let now = std::fs::read_to_string(&drawn).unwrap_or_default();
        assert!(now == drawing, "docs/strata.svg is not current; run `make strata`");
    }
}
