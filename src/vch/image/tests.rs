//! Archives in, file systems out: layers as engines make them and as strangers would.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufReader, Read, Write},
    path::Path,
    sync::Arc,
};

use backhand::{FilesystemReader, InnerNode};
use proptest::prelude::*;
use redb::Database;
use serde_json::{Value, json};
use tar::{EntryType, Header};
use tempfile::TempDir;

use super::{spool::digest, *};

/// A store in a directory of its own.
struct Lab {
    directory: TempDir,
    database: Arc<Database>,
    images: Images,
}

impl Lab {
    fn new() -> Self {
        Self::with_limits(Limits::DEFAULT)
    }

    fn with_limits(limits: Limits) -> Self {
        let directory = TempDir::new().unwrap();
        let database = Arc::new(Database::create(directory.path().join("state")).unwrap());
        let images = Images::with_limits(directory.path(), Arc::clone(&database), limits).unwrap();
        Self { directory, database, images }
    }

    /// What is in `<state>/images`.
    fn directories(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("images")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The merged `layers`, or why there is nothing.
    fn merged(&self, layers: &[Vec<u8>]) -> Result<BTreeMap<String, String>, ImageError> {
        let loaded = self.images.load(&save(layers, &[])[..])?;
        Ok(contents(&self.images.root(&loaded[0].id)))
    }
}

/// Every path of a squashfs file with what it is.
fn contents(path: &Path) -> BTreeMap<String, String> {
    let system = FilesystemReader::from_reader(BufReader::new(File::open(path).unwrap())).unwrap();
    let describe = |node: &backhand::Node<_>| match &node.inner {
        InnerNode::Dir(_) => "directory".to_owned(),
        InnerNode::File(file) => {
            let mut text = String::new();
            system.file(file).reader().read_to_string(&mut text).unwrap();
            format!("file {text}")
        }
        InnerNode::Symlink(link) => format!("-> {}", link.link.display()),
        InnerNode::CharacterDevice(device) => format!("character {:#x}", device.device_number),
        InnerNode::BlockDevice(device) => format!("block {:#x}", device.device_number),
        InnerNode::NamedPipe => "fifo".to_owned(),
        InnerNode::Socket => "socket".to_owned(),
    };
    system
        .files()
        .map(|node| {
            let header = node.header;
            let what = format!("{:o} {}:{} {}", header.permissions, header.uid, header.gid, describe(node));
            (node.fullpath.display().to_string(), what)
        })
        .collect()
}

/// A tar archive, entry by entry; names are taken as they are.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(mut self, kind: EntryType, path: &str, link: &str, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(if kind == EntryType::Directory { 0o750 } else { 0o4711 });
        header.set_uid(1000);
        header.set_gid(5);
        header.set_mtime(1_700_000_000);
        if matches!(kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(259).unwrap();
            header.set_device_minor(300).unwrap();
        }
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, data: &str) -> Self {
        self.entry(EntryType::Regular, path, "", data.as_bytes())
    }

    fn directory(self, path: &str) -> Self {
        self.entry(EntryType::Directory, path, "", b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Symlink, path, target, b"")
    }

    fn link(self, path: &str, target: &str) -> Self {
        self.entry(EntryType::Link, path, target, b"")
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn config(layers: &[Vec<u8>]) -> Value {
    let digests: Vec<_> = layers.iter().map(|layer| format!("sha256:{}", digest(layer))).collect();
    json!({
        "architecture": "amd64", "os": "linux", "created": "2024-05-06T07:08:09.123456789Z",
        "config": {"Cmd": ["sh"], "Env": ["PATH=/bin"], "Entrypoint": null, "ExposedPorts": {"80/tcp": {}}},
        "rootfs": {"type": "layers", "diff_ids": digests},
    })
}

/// What `docker save` of old writes, of an image with `config`.
fn archive(config: &Value, layers: &[Vec<u8>], tags: &[&str]) -> Vec<u8> {
    let names: Vec<_> = (0..layers.len()).map(|index| format!("{index}/layer.tar")).collect();
    let mut tar = Tar::default();
    for (name, layer) in names.iter().zip(layers) {
        tar = tar.entry(EntryType::Regular, name, "", layer);
    }
    let manifest = json!([{"Config": "config.json", "RepoTags": tags, "Layers": names}]);
    tar.file("config.json", &config.to_string()).file("manifest.json", &manifest.to_string()).end()
}

fn save(layers: &[Vec<u8>], tags: &[&str]) -> Vec<u8> {
    archive(&config(layers), layers, tags)
}

fn nobody(_: &ImageId) -> Option<InUse> {
    None
}

#[test]
fn an_image_is_what_its_archive_says() {
    let lab = Lab::new();
    let layer = Tar::default().directory("./").directory("bin/").file("./bin/sh", "shell").end();
    let loaded = lab.images.load(&save(std::slice::from_ref(&layer), &["busybox", "b/c:1"])[..]).unwrap();
    assert_eq!(loaded.len(), 1);
    let image = lab.images.find("busybox").unwrap();
    assert_eq!(image.id, loaded[0].id);
    assert_eq!(image.id.digits(), digest(config(std::slice::from_ref(&layer)).to_string().as_bytes()));
    assert_eq!(image.layers, [format!("sha256:{}", digest(&layer))]);
    assert_eq!(image.config.cmd.as_deref(), Some(&["sh".to_owned()][..]));
    assert_eq!(image.created_seconds(), 1_714_979_289);
    assert_eq!(image.tags.iter().map(ToString::to_string).collect::<Vec<_>>(), ["b/c:1", "busybox:latest"]);
    let root = lab.images.root(&image.id);
    assert_eq!(fs::metadata(&root).unwrap().len(), image.size);
    let found = contents(&root);
    assert_eq!(found["/"], "750 1000:5 directory");
    assert_eq!(found["/bin/sh"], "4711 1000:5 file shell");
    assert_eq!(found.len(), 3);
    // Again: the same image, nothing new.
    assert_eq!(lab.images.load(&save(&[layer], &["other"])[..]).unwrap()[0].id, image.id);
    assert_eq!(lab.images.find("busybox").unwrap().tags.len(), 3);
    assert_eq!(lab.images.list().unwrap().len(), 1);
}

#[test]
fn every_kind_of_entry_arrives() {
    let long = format!("{}/{}", "d".repeat(120), "f".repeat(200));
    let pax = format!("path={long}\n");
    let record = format!("{} {pax}", pax.len() + 4);
    let layer = Tar::default()
        .symlink("link", "/etc/../target")
        .entry(EntryType::Char, "char", "", b"")
        .entry(EntryType::Block, "block", "", b"")
        .entry(EntryType::Fifo, "fifo", "", b"")
        .file("etc/file", "text")
        .link("hard", "/etc/file")
        .link("hard-to-link", "link")
        .entry(EntryType::XHeader, "pax", "", record.as_bytes())
        .file("short", "long name")
        .entry(EntryType::GNULongName, "gnu", "", format!("{}\0", "g".repeat(150)).as_bytes())
        .entry(EntryType::GNULongLink, "gnu", "", format!("{}\0", "t".repeat(150)).as_bytes())
        .symlink("short", "short")
        .entry(EntryType::Regular, "big", "", &b"0123456789abcdef".repeat(20_000))
        .link("big-too", "big")
        .entry(EntryType::Regular, "empty", "", b"")
        .end();
    let lab = Lab::new();
    let found = lab.merged(&[layer]).unwrap();
    assert_eq!(found["/link"], "4711 1000:5 -> /etc/../target");
    assert_eq!(found["/hard-to-link"], "4711 1000:5 -> /etc/../target");
    // new_encode_dev(259, 300)
    assert_eq!(found["/char"], "4711 1000:5 character 0x11032c");
    assert_eq!(found["/block"], "4711 1000:5 block 0x11032c");
    assert_eq!(found["/fifo"], "4711 1000:5 fifo");
    assert_eq!(found["/hard"], "4711 1000:5 file text");
    assert_eq!(found["/etc"], "755 0:0 directory");
    assert_eq!(found[&format!("/{long}")], "4711 1000:5 file long name");
    assert_eq!(found[&format!("/{}", "g".repeat(150))], format!("4711 1000:5 -> {}", "t".repeat(150)));
    assert!(found["/big-too"].ends_with("0123456789abcdef"));
    assert_eq!(found["/big-too"].len(), 320_000 + "4711 1000:5 file ".len());
    // The contents of the two are stored once.
    assert!(lab.images.list().unwrap()[0].size < 400_000);
    assert_eq!(found["/empty"], "4711 1000:5 file ");
}

#[test]
fn upper_layers_win() {
    let lower = Tar::default()
        .file("a/kept", "1")
        .file("a/replaced", "1")
        .file("a/gone", "1")
        .file("b/x/deep", "1")
        .file("c/hidden", "1")
        .file("directory/in", "1")
        .file("file", "1")
        .directory("d")
        .file("d/stays", "1")
        .end();
    let upper = Tar::default()
        .file("a/replaced", "2")
        .file("a/.wh.gone", "")
        .file(".wh.b", "")
        .file("c/new", "2")
        .file("c/.wh..wh..opq", "")
        .file(".wh..wh.plnk", "")
        .file("directory", "now a file")
        .directory("file")
        .file("file/in", "2")
        .directory("d")
        .file("none/.wh.x", "")
        .end();
    let found = Lab::new().merged(&[lower, upper]).unwrap();
    let paths: Vec<_> = found.keys().map(String::as_str).collect();
    assert_eq!(
        paths,
        [
            "/",
            "/a",
            "/a/kept",
            "/a/replaced",
            "/c",
            "/c/new",
            "/d",
            "/d/stays",
            "/directory",
            "/file",
            "/file/in"
        ]
    );
    assert!(found["/a/replaced"].ends_with('2'));
    assert_eq!(found["/d"], "750 1000:5 directory");
}

#[test]
fn a_whiteout_hides_lower_layers_only() {
    let lower = Tar::default().file("x/old", "1").file("y", "1").end();
    // Whatever the order: what the layer itself has stays.
    let upper = Tar::default().file("x/new", "2").file(".wh.x", "").file("y", "2").file(".wh.y", "").end();
    let found = Lab::new().merged(&[lower, upper]).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["/", "/x", "/x/new", "/y"]);
}

#[test]
fn parents_that_are_links_are_followed_inside() {
    let lower = Tar::default()
        .directory("usr/lib")
        .symlink("lib", "usr/lib")
        .symlink("up", "../../../../etc")
        .symlink("root", "/")
        .symlink("dangling", "made/here")
        .end();
    let upper = Tar::default()
        .file("lib/foo", "1")
        .file("up/passwd", "1")
        .file("root/root/lib/bar", "1")
        .file("dangling/x", "1")
        .file("lib/gone", "1")
        .end();
    let top = Tar::default().file("lib/.wh.gone", "").link("hard", "lib/foo").end();
    let found = Lab::new().merged(&[lower, upper, top]).unwrap();
    for path in ["/usr/lib/foo", "/etc/passwd", "/usr/lib/bar", "/made/here/x", "/hard"] {
        assert!(found.contains_key(path), "{path}");
    }
    assert!(!found.contains_key("/usr/lib/gone"));
    assert_eq!(found["/lib"], "4711 1000:5 -> usr/lib");
    assert!(!Path::new("/made").exists());
}

#[test]
fn absolute_paths_are_paths_of_the_image() {
    let found = Lab::new().merged(&[Tar::default().file("/etc//x", "1").end()]).unwrap();
    assert_eq!(found.keys().collect::<Vec<_>>(), ["/", "/etc", "/etc/x"]);
}

#[test]
fn the_deepest_tree_is_written_on_a_small_stack() {
    let path = format!("{}x", "d/".repeat(255));
    let layer = Tar::default().entry(EntryType::GNULongName, "x", "", path.as_bytes()).file("x", "1").end();
    let lab = Lab::new();
    // What threads for blocking work have.
    let write = || lab.images.load(&save(&[layer], &[])[..]).unwrap().remove(0).id;
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let id = std::thread::scope(|scope| thread.spawn_scoped(scope, write).unwrap().join().unwrap());
    assert!(contents(&lab.images.root(&id)).contains_key(&format!("/{path}")));
}

#[test]
fn two_loads_at_once_make_one_image() {
    let lab = Lab::new();
    let archive = save(&[Tar::default().file("x", "1").end()], &["app"]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| lab.images.load(&archive[..]).unwrap());
        }
    });
    assert_eq!(lab.images.list().unwrap().len(), 1);
    assert_eq!(lab.directories().len(), 1);
}

#[test]
fn hostile_entries_are_refused() {
    let deep = "d/".repeat(40);
    let mut chain = Tar::default().symlink("c0", &deep);
    for index in 1..8 {
        chain = chain.symlink(&format!("c{index}"), &format!("c{}/{deep}", index - 1));
    }
    for (why, tar) in [
        ("'..'", Tar::default().file("../x", "")),
        ("'..'", Tar::default().file("a/../../x", "")),
        ("'..'", Tar::default().link("x", "../etc/passwd")),
        ("'..'", Tar::default().file("a/.wh...", "")),
        ("no file of this image", Tar::default().link("x", "/etc/passwd")),
        ("no file of this image", Tar::default().link("x", "")),
        ("no file of this image", Tar::default().directory("d").link("x", "d")),
        ("circle", Tar::default().symlink("a", "b").symlink("b", "a").file("a/x", "")),
        ("circle", Tar::default().symlink("a", "a").file("a/x", "")),
        ("something else", Tar::default().file("a", "").file("a/x", "")),
        ("root directory", Tar::default().file("./", "x").symlink("/", "x")),
        ("without a target", Tar::default().symlink("a", "")),
        ("deeper", chain.file("c7/x", "")),
        ("deeper", Tar::default().entry(EntryType::GNULongName, "x", "", &b"d/".repeat(300)).file("x", "")),
        ("unknown kind", Tar::default().entry(EntryType::new(b'Z'), "x", "", b"")),
        ("sparse", Tar::default().entry(EntryType::GNUSparse, "x", "", b"")),
        ("longer than 4095", {
            Tar::default().entry(EntryType::GNULongName, "x", "", &[b'a'; 5000]).file("x", "")
        }),
        (
            "longer than 255",
            Tar::default().entry(EntryType::GNULongName, "x", "", &[b'a'; 300]).file("x", ""),
        ),
        ("extended header", Tar::default().entry(EntryType::XHeader, "x", "", &vec![b'a'; 300 << 10])),
        (
            "not one of a tar archive",
            Tar::default().entry(EntryType::XHeader, "x", "", b"nonsense").file("x", ""),
        ),
    ] {
        let error = Lab::new().merged(&[tar.end()]).unwrap_err().to_string();
        assert!(error.contains(why), "{why}: {error}");
        assert!(!error.contains('\n'));
    }
}

#[test]
fn limits_hold() {
    let refused = |limits: Limits, layer: &[u8]| {
        let error = Lab::with_limits(limits).merged(&[layer.to_vec()]).unwrap_err().to_string();
        assert!(error.contains("the most that is taken"), "{error}");
    };
    let layer = Tar::default().file("a/b/c", "1").end();
    refused(Limits { entries: 2, ..Limits::DEFAULT }, &layer);
    refused(Limits { names: 10, ..Limits::DEFAULT }, &layer);
    refused(Limits { spool: 1000, ..Limits::DEFAULT }, &layer);
    refused(Limits { members: 2, ..Limits::DEFAULT }, &layer);
    refused(Limits { document: 100, ..Limits::DEFAULT }, &layer);
    refused(Limits { layers: 0, ..Limits::DEFAULT }, &layer);
    // A hundred names for one file count a hundred times.
    let mut links = Tar::default().entry(EntryType::Regular, "f", "", &[1; 1000]);
    for index in 0..100 {
        links = links.link(&format!("l{index}"), "f");
    }
    refused(Limits { content: 50_000, ..Limits::DEFAULT }, &links.end());
    let mut owners = Vec::new();
    for owner in 0..5000 {
        let mut header = Header::new_gnu();
        header.set_path(format!("f{owner}")).unwrap();
        header.set_uid(owner);
        header.set_gid(0);
        header.set_size(0);
        header.set_mode(0);
        header.set_mtime(0);
        header.set_cksum();
        owners.extend(header.as_bytes());
    }
    refused(Limits::DEFAULT, &owners);
}

#[test]
fn a_bomb_is_stopped_before_it_fills_the_disk() {
    let lab = Lab::with_limits(Limits { spool: 1 << 20, ..Limits::DEFAULT });
    let bomb = gzip(&vec![0; 20 << 20]);
    let mut image = config(&[]);
    image["rootfs"]["diff_ids"] = json!([format!("sha256:{}", digest(&bomb))]);
    let error = lab.images.load(&archive(&image, &[bomb], &[])[..]).unwrap_err();
    assert!(error.to_string().contains("more than 1048576 bytes"), "{error}");
    assert_eq!(lab.directories(), Vec::<String>::new());
}

#[test]
fn compressed_layers_and_archives() {
    let layer = Tar::default().file("x", "1").end();
    let image = config(std::slice::from_ref(&layer));
    let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
    for compressed in [gzip(&layer), zstd(&layer)] {
        let plain = archive(&image, &[compressed], &["a"]);
        for whole in [plain.clone(), gzip(&plain), zstd(&plain)] {
            let lab = Lab::new();
            let loaded = lab.images.load(&whole[..]).unwrap();
            assert_eq!(contents(&lab.images.root(&loaded[0].id)).len(), 2);
        }
        let cut = gzip(&plain);
        assert!(matches!(Lab::new().images.load(&cut[..cut.len() - 20]), Err(ImageError::Spool(_))));
    }
}

#[test]
fn what_is_not_what_it_says_is_refused() {
    let layer = vec![Tar::default().file("x", "1").end()];
    let changed = |key: &str, value: Value| {
        let mut image = config(&layer);
        image[key] = value;
        Lab::new().images.load(&archive(&image, &layer, &[])[..]).unwrap_err().to_string()
    };
    let wrong = format!("sha256:{}", "0".repeat(64));
    assert!(changed("rootfs", json!({"diff_ids": [wrong]})).contains("it is damaged"));
    assert!(changed("rootfs", json!({"diff_ids": []})).contains("has 0 layers and the archive 1"));
    assert!(changed("architecture", json!("arm64")).contains("linux/arm64: only linux/amd64"));
    assert!(changed("os", json!("windows")).contains("windows/amd64"));
    assert!(changed("created", json!("yesterday")).contains("no time"));
    assert!(changed("config", json!([1])).contains("cannot be understood"));
    let error = Lab::new().images.load(&layer[0][..]).unwrap_err().to_string();
    assert!(error.contains("docker import"), "{error}");
    let error = Lab::new().images.load(&save(&layer, &["A b"])[..]).unwrap_err().to_string();
    assert!(error.contains("its tag 'A b'"), "{error}");
    let missing = json!([{"Config": "c.json", "Layers": ["../../etc/passwd"]}]).to_string();
    let tar =
        Tar::default().file("manifest.json", &missing).file("c.json", &config(&layer).to_string()).end();
    let error = Lab::new().images.load(&tar[..]).unwrap_err().to_string();
    assert!(error.contains("not complete"), "{error}");
}

/// An OCI layout as engines save it now.
fn layout(architectures: &[&str], name: &str) -> Vec<u8> {
    let mut tar = Tar::default();
    let mut manifests = Vec::new();
    for architecture in architectures {
        let layer = Tar::default().file("for", architecture).end();
        let mut image = config(std::slice::from_ref(&layer));
        image["architecture"] = json!(architecture);
        let layer = gzip(&layer);
        let manifest = json!({
            "schemaVersion": 2,
            "config": {"digest": format!("sha256:{}", digest(image.to_string().as_bytes()))},
            "layers": [{"digest": format!("sha256:{}", digest(&layer))}],
        });
        let mut blob = |bytes: &[u8]| {
            let path = format!("blobs/sha256/{}", digest(bytes));
            tar = std::mem::take(&mut tar).entry(EntryType::Regular, &path, "", bytes);
        };
        blob(&layer);
        blob(image.to_string().as_bytes());
        blob(manifest.to_string().as_bytes());
        manifests.push(json!({
            "digest": format!("sha256:{}", digest(manifest.to_string().as_bytes())),
            "platform": {"os": "linux", "architecture": architecture},
        }));
    }
    let inner = json!({"manifests": manifests}).to_string();
    let outer = json!({"manifests": [{
        "digest": format!("sha256:{}", digest(inner.as_bytes())),
        "annotations": {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": "latest"},
    }]});
    let path = format!("blobs/sha256/{}", digest(inner.as_bytes()));
    tar.file(&path, &inner).file("index.json", &outer.to_string()).end()
}

#[test]
fn of_a_layout_this_platform_is_taken() {
    let lab = Lab::new();
    let loaded = lab.images.load(&layout(&["arm64", "amd64"], "docker.io/library/a:1")[..]).unwrap();
    assert_eq!(loaded.len(), 1);
    assert_eq!(loaded[0].tags[0].to_string(), "a:1");
    assert!(contents(&lab.images.root(&loaded[0].id))["/for"].ends_with("amd64"));
    let error = lab.images.load(&layout(&["arm64", "s390x"], "a")[..]).unwrap_err().to_string();
    assert!(error.contains("linux/arm64, linux/s390x: only linux/amd64"), "{error}");
}

#[test]
fn a_blob_that_was_changed_is_refused() {
    let mut bytes = layout(&["amd64"], "a");
    let place = bytes.windows(13).position(|part| part == b"schemaVersion").unwrap();
    bytes[place] = b'x';
    let error = Lab::new().images.load(&bytes[..]).unwrap_err().to_string();
    assert!(error.contains("it is damaged"), "{error}");
}

#[test]
fn a_layer_may_be_a_link_to_another() {
    let layer = Tar::default().file("x", "1").end();
    let layers = [layer.clone(), layer.clone()];
    let manifest = json!([{"Config": "c", "RepoTags": null, "Layers": ["a/layer.tar", "b/layer.tar"]}]);
    let tar = |target| {
        Tar::default()
            .entry(EntryType::Regular, "a/layer.tar", "", &layer)
            .symlink("b/layer.tar", target)
            .file("c", &config(&layers).to_string())
            .file("manifest.json", &manifest.to_string())
            .end()
    };
    Lab::new().images.load(&tar("../a/layer.tar")[..]).unwrap();
    assert!(Lab::new().images.load(&tar("layer.tar")[..]).is_err());
    assert!(Lab::new().images.load(&tar("/etc/passwd")[..]).is_err());
}

#[test]
fn import_makes_an_image_of_a_root_file_system() {
    let lab = Lab::new();
    let tar = gzip(&Tar::default().file("bin/app", "1").end());
    let changes = ["CMD [\"/bin/app\"]".to_owned(), "EXPOSE 80".to_owned()];
    let id = lab.images.import(&tar[..], Some("app:2".parse().unwrap()), &changes, "by hand").unwrap();
    let image = lab.images.find("app:2").unwrap();
    assert_eq!(image.id, id);
    assert_eq!(image.comment, "by hand");
    assert_eq!(image.config.cmd.unwrap(), ["/bin/app"]);
    assert!(contents(&lab.images.root(&id)).contains_key("/bin/app"));
    assert!(lab.images.import(&tar[..], None, &["RUN x".to_owned()], "").is_err());
    assert!(lab.images.import(&b"nonsense".repeat(100)[..], None, &[], "").is_err());
}

#[test]
fn images_are_found_by_name_and_id() {
    let lab = Lab::new();
    lab.images.load(&save(&[Tar::default().file("x", "1").end()], &["busybox"])[..]).unwrap();
    let id = lab.images.list().unwrap().remove(0).id;
    for text in ["busybox", "docker.io/library/busybox:latest", id.short(), &id.short()[..4], id.digits()] {
        assert_eq!(lab.images.find(text).unwrap().id, id, "{text}");
    }
    assert_eq!(lab.images.find(&id.to_string()).unwrap().id, id);
    assert_eq!(lab.images.find(&id.to_string()[..15]).unwrap().id, id);
    for (text, error) in [
        ("busybox:1", "No such image: busybox:1"),
        ("nginx", "No such image: nginx:latest"),
        ("me/app", "No such image: me/app:latest"),
        (
            "a@sha256:0",
            "'a@sha256:0' has a digest: images are known here by tag and by id only, leave '@…' out",
        ),
        ("A", "invalid reference format: repository name (library/A) must be lowercase"),
    ] {
        assert_eq!(lab.images.find(text).unwrap_err().to_string(), error);
    }
}

#[test]
fn tags_move_and_the_last_takes_the_image_along() {
    let lab = Lab::new();
    let load = |text| {
        let layer = Tar::default().file("x", text).end();
        lab.images.load(&save(&[layer], &["app"])[..]).unwrap().remove(0).id
    };
    let (old, new) = (load("1"), load("2"));
    assert_eq!(lab.images.find("app").unwrap().id, new);
    assert!(lab.images.find(old.digits()).unwrap().tags.is_empty());
    lab.images.tag(old.short(), "app:old".parse().unwrap()).unwrap();
    assert_eq!(lab.images.find("app:old").unwrap().id, old);
    assert!(lab.images.tag("none", "x".parse().unwrap()).is_err());
    let used = |_: &ImageId| Some(InUse { container: "c0ffee".to_owned(), running: true });
    let error = lab.images.remove(new.digits(), true, &used).unwrap_err().to_string();
    assert!(error.contains("image is being used by running container c0ffee"), "{error}");
    let removed = lab.images.remove("app", false, &nobody).unwrap();
    assert_eq!(removed, [Removed::Untagged("app:latest".to_owned()), Removed::Deleted(new)]);
    assert_eq!(lab.directories(), [old.digits()]);
    lab.images.remove("app:old", false, &nobody).unwrap();
    assert_eq!(lab.directories(), Vec::<String>::new());
    assert!(matches!(lab.images.remove("app", false, &nobody), Err(ImageError::NotFound(_))));
}

#[test]
fn what_a_crash_leaves_is_tidied() {
    let lab = Lab::new();
    let layer = Tar::default().file("x", "1").end();
    let id = lab.images.load(&save(&[layer], &["app"])[..]).unwrap().remove(0).id;
    let images = lab.directory.path().join("images");
    // Died while writing, died before the record, and not ours.
    for name in [".temporary-abc", &"0".repeat(64), "lost+found"] {
        fs::create_dir(images.join(name)).unwrap();
        fs::write(images.join(name).join("root.squashfs"), "x").unwrap();
    }
    let open = || Images::open(lab.directory.path(), Arc::clone(&lab.database)).unwrap();
    assert_eq!(open().find("app").unwrap().id, id);
    let mut left = lab.directories();
    left.sort();
    let mut wanted = [id.digits().to_owned(), "lost+found".to_owned()];
    wanted.sort();
    assert_eq!(left, wanted);
    // Somebody took the file away.
    fs::remove_dir_all(images.join(id.digits())).unwrap();
    let store = open();
    assert_eq!(store.find("app").unwrap_err().to_string(), "No such image: app:latest");
    assert!(store.list().unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let lab = Lab::new();
        prop_assert!(lab.images.load(&bytes[..]).is_err());
        let _ = lab.images.import(&bytes[..], None, &[], "");
    }

    /// Damage anywhere in a good archive.
    #[test]
    fn no_damage_panics(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8)) {
        let layer = Tar::default().directory("a").file("a/b", "1").symlink("c", "a").link("d", "c/b").end();
        let mut bytes = save(std::slice::from_ref(&layer), &["a"]);
        let mut root = layer;
        for (place, byte) in changes {
            *place.get_mut(&mut bytes) = byte;
            *place.get_mut(&mut root) = byte;
        }
        let lab = Lab::new();
        let _ = lab.images.load(&bytes[..]);
        let _ = lab.images.import(&root[..], None, &[], "");
    }
}
