use super::*;
use crate::{
    AnnotationKind, Annotations, Compatibility, Compression, FileOptions, ImageOptions, MediaTypes,
};

#[test]
fn what_buildctl_takes() {
    for good in [
        "type=oci,dest=x.tar",
        "type=oci,dest=x,tar=false,compression=uncompressed",
        "type=oci,dest=x,\"name=a:1,b:2\",compression=gzip,compression-level=9",
        "type=oci,dest=x,compression=zstd,compression-level=22,force-compression=true",
        "type=oci,dest=x,force-compression=",
        "type=oci,dest=-,oci-mediatypes=false,rewrite-timestamp=1,source-date-epoch=",
        "type=oci,dest=x,annotation.A.b=c,annotation-index[linux/arm64].x=y",
        "type=oci,dest=x,\"containerimage.config={\"\"os\"\":\"\"linux\"\"}\"",
        "type=docker,dest=x,tar=false,name=a",
        "type=docker,dest=x,name=a,compatibility-version=10,oci-artifact=false",
        "type=image,name=a,store=,unpack=false,name-canonical=true,danging-name-empty-only=",
        "type=image,dangling-name-prefix=p,attestation-inline=false,prefer-nondist-layers=true",
        "type=registry,name=a,push-by-digest=,registry.insecure=true",
        "type=registry,name=a,push=,unpack=false,store=true,name-canonical=",
        "type=oci,dest=x,containerimage.config/linux/arm64={},containerimage.inlinecache=x",
        "type=image,name=a,push=,registry.insecure=false",
        "type=docker,engine=/var/run/docker.sock,name=a,verify=",
        "type=local,dest=out,mode=delete,platform-split=false,attestation-prefix=a-",
        "type=tar,dest=-,source-date-epoch=0",
        "type=cacheonly",
        "out",
        "-",
    ] {
        let output = Output::parse(good);
        assert!(output.is_ok(), "{good}: {}", output.unwrap_err());
    }
}

#[test]
fn errors_say_what_would_be_right() {
    for (bad, part) in [
        ("type=oci,dest=x,tarr=false", "did you mean `tar`"),
        ("type=oci,dest=x,tarr=false", "it has: dest, tar, name"),
        ("type=oci,dst=x", "did you mean `dest`"),
        ("type=oci", "needs `dest`"),
        ("dest=x", "needs `type`"),
        (
            "type=oic,dest=x",
            "there are: image, registry, oci, docker, local, tar, cacheonly",
        ),
        ("type=oci,dest=x,tar=maybe", "true or false"),
        ("type=oci,dest=x,oci-mediatypes=", "true or false"),
        ("type=oci,dest=-,tar=false", "conflicts"),
        ("type=oci,dest=x,compression=lzma", "estargz, zstd"),
        ("type=oci,dest=x,compression-level=10", "0 to 9"),
        ("type=oci,dest=x,compression-level=", "a whole number"),
        (
            "type=oci,dest=x,compression=zstd,compression-level=23",
            "0 to 22",
        ),
        (
            "type=oci,dest=x,compatibility-version=40",
            "one of 10, 20, 30",
        ),
        (
            "type=oci,dest=x,compatibility-version=5",
            "one of 10, 20, 30",
        ),
        (
            "type=oci,dest=x,source-date-epoch=now",
            "seconds since 1970",
        ),
        ("type=oci,dest=x,annotation-layer.a=b", "index-descriptor"),
        ("type=oci,dest=x,annotations=b", "[-KIND]"),
        (
            "type=oci,dest=x,compression=estargz,oci-mediatypes=false",
            "conflicts",
        ),
        (
            "type=oci,dest=x,oci-artifact=true,oci-mediatypes=false",
            "conflicts",
        ),
        ("type=local,dest=x,mode=move", "copy or delete"),
        (
            "type=local,dest=x,name=x",
            "it has: dest, source-date-epoch",
        ),
        ("type=registry,name=x,push=false", "`push=false`"),
        ("type=registry,name=x,tar=true", "no key `tar`"),
        (
            "type=oci,dest=x,containerimage.confg={}",
            "did you mean `containerimage.config[/PLATFORM]`",
        ),
        (
            "type=oci,dest=x,containerimage.conf/linux/arm64={}",
            "did you mean `containerimage.config[/PLATFORM]`",
        ),
        ("type=oci,containerimage.config={}", "needs `dest`"),
        ("type=oci,annotation.x=y", "needs `dest`"),
        (
            "type=oci,dest=x,anotation.x=y",
            "annotation[-KIND][[PLATFORM]].KEY",
        ),
        (
            "type=docker,engine=x,dest=y",
            "no `dest` or `tar` beside it",
        ),
        (
            "type=docker,engine=x,tar=false",
            "no `dest` or `tar` beside it",
        ),
        ("type=docker,dest=-,tar=false", "conflicts"),
        ("type=docker,engine=", "the socket of an engine"),
        ("type=cacheonly,dest=x", "no key `dest`"),
        ("type=oci,dest=x,name=\"a,b\"", "\"key=a,b\""),
        ("type=oci,\"dest=x", "\"key=a,b\""),
        ("type,dest=x", "key=value"),
    ] {
        let error = Output::parse(bad).unwrap_err().to_string();
        assert!(error.contains(part), "{bad}: {error}");
    }
}

#[test]
fn a_default_epoch_gives_way_to_what_was_said() {
    let epoch = |text: &str| match Output::parse(text)
        .unwrap()
        .with_default_epoch(Epoch::At(7))
    {
        Output::Tar(tar) => tar.options.epoch,
        Output::Oci(oci) => oci.options.epoch,
        other => panic!("{other:?}"),
    };
    assert_eq!(epoch("type=tar,dest=x"), Epoch::At(7));
    assert_eq!(epoch("type=tar,dest=x,source-date-epoch="), Epoch::None);
    assert_eq!(epoch("type=oci,dest=x,source-date-epoch=8"), Epoch::At(8));
    // An argument that is empty says that there is none.
    let Output::Tar(tar) = Output::parse("-").unwrap().with_default_epoch(Epoch::None) else {
        panic!("no tar");
    };
    assert_eq!(tar.options.epoch, Epoch::None);
}

/// How an output that was read looks, next to how it looks made by typed options.
#[track_caller]
fn same(text: &str, typed: &impl std::fmt::Debug) {
    let output = Output::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let read = match &output {
        Output::Image(image) => format!("{image:?}"),
        Output::Oci(oci) => format!("{oci:?}"),
        Output::Docker(docker) => format!("{docker:?}"),
        Output::Local(local) => format!("{local:?}"),
        Output::Tar(tar) => format!("{tar:?}"),
        Output::CacheOnly(none) => format!("{none:?}"),
    };
    assert_eq!(read, format!("{typed:?}"), "{text}");
}

fn options(change: impl FnOnce(&mut ImageOptions)) -> ImageOptions {
    let mut options = ImageOptions::default();
    change(&mut options);
    options
}

#[test]
fn nothing_is_set_that_nobody_sets() {
    same("type=oci,dest=x", &Oci::archive("x"));
    same("type=docker,dest=x", &Docker::archive("x"));
    same("type=image", &Image::new());
    same("type=local,dest=x", &Local::new("x"));
    same("type=tar,dest=x", &Tar::file("x"));
    same("type=cacheonly", &CacheOnly);
    same("x", &Local::new("x"));
    // And what that is.
    let image = ImageOptions::default();
    assert!(image.names.is_empty() && image.metadata.is_empty());
    assert_eq!(image.compression, Compression::Gzip { level: 5 });
    assert!(!image.force_compression && !image.rewrite_timestamp);
    assert_eq!(image.media_types, None);
    assert_eq!((image.artifact, image.inline_attestations), (None, None));
    assert!(!image.prefer_nondistributable);
    assert_eq!(image.epoch, Epoch::OfResult);
    assert_eq!(image.annotations, Annotations::default());
    assert_eq!(image.compatibility, Compatibility::V30);
    let files = FileOptions::default();
    assert_eq!((files.epoch, files.platform_split), (Epoch::OfResult, None));
    assert_eq!(files.attestation_prefix, "");
    assert_eq!(LocalMode::default(), LocalMode::Copy);
}

#[test]
fn attributes_of_images_are_typed_options() {
    let oci = |text: &str, change: fn(&mut ImageOptions)| {
        for kind in ["type=oci,dest=x", "type=docker,dest=x", "type=image"] {
            let (text, typed) = (format!("{kind},{text}"), options(change));
            match kind {
                "type=oci,dest=x" => same(&text, &Oci::archive("x").options(typed)),
                "type=docker,dest=x" => same(&text, &Docker::archive("x").options(typed)),
                _ => same(&text, &Image::new().options(typed)),
            }
        }
    };
    oci("name=a", |o| o.names = vec!["a".to_owned()]);
    // Several are taken apart, and refused, when the image is named.
    oci("\"name=a:1,b,*\"", |o| o.names = vec!["a:1,b,*".to_owned()]);
    oci("name=", |_| {});
    for (level, value) in [(0, "0"), (9, "9"), (5, "5")] {
        let same_level = |name: &str, compression: Compression| {
            let text = format!("type=oci,dest=x,compression={name},compression-level={value}");
            same(&text, &Oci::archive("x").compression(compression));
        };
        same_level("gzip", Compression::Gzip { level });
        same_level("gzip-stream", Compression::GzipStream { level });
        same_level("estargz", Compression::Estargz { level });
        same_level("zstd", Compression::Zstd { level });
        same_level("uncompressed", Compression::Uncompressed);
    }
    for one in Compression::ALL {
        let text = format!("type=oci,dest=x,compression={}", one.name());
        same(&text, &Oci::archive("x").compression(one));
    }
    oci("compression=zstd,compression-level=22", |o| {
        o.compression = Compression::Zstd { level: 22 };
    });
    oci("force-compression=", |o| o.force_compression = true);
    oci("force-compression=false", |_| {});
    oci("oci-mediatypes=true", |o| {
        o.media_types = Some(MediaTypes::Oci);
    });
    oci("oci-mediatypes=0", |o| {
        o.media_types = Some(MediaTypes::Docker);
    });
    oci("oci-artifact=T", |o| o.artifact = Some(true));
    oci("oci-artifact=false", |o| o.artifact = Some(false));
    oci("attestation-inline=true", |o| {
        o.inline_attestations = Some(true);
    });
    oci("prefer-nondist-layers=1", |o| {
        o.prefer_nondistributable = true;
    });
    oci("source-date-epoch=-5", |o| o.epoch = Epoch::At(-5));
    oci("source-date-epoch=", |o| o.epoch = Epoch::None);
    oci("rewrite-timestamp=true", |o| o.rewrite_timestamp = true);
    oci("compatibility-version=10", |o| {
        o.compatibility = Compatibility::V10;
    });
    oci("compatibility-version=20", |o| {
        o.compatibility = Compatibility::V20;
    });
    oci("compatibility-version=30", |_| {});
    oci("annotation.A.b=c,annotation-index[linux/arm64].x=", |o| {
        let arm = ashlar_llb::Platform::linux_arm64();
        o.annotations
            .set(AnnotationKind::Manifest, None, "A.b", "c");
        o.annotations
            .set(AnnotationKind::Index, Some(&arm), "x", "");
    });
    oci("containerimage.config={}", |o| {
        let key = "containerimage.config".to_owned();
        o.metadata.insert(key, b"{}".to_vec());
    });
    same("type=oci,dest=x,verify=", &Oci::archive("x").verify(true));
    same(
        "type=docker,dest=x,verify=1",
        &Docker::archive("x").verify(true),
    );
    same("type=oci,dest=x,tar=false", &Oci::directory("x"));
    same("type=oci,dest=x,tar=", &Oci::archive("x"));
    #[cfg(feature = "engine")]
    same("type=docker,engine=/s", &Docker::engine("/s"));
}

#[test]
fn attributes_of_stored_images_and_of_files_are_typed_options() {
    let image = |text: &str, typed: Image| same(&format!("type=image,{text}"), &typed);
    image("store=false", Image::new().store(false));
    image("store=", Image::new());
    image("unpack=", Image::new().unpack(true));
    image("verify=true", Image::new().verify(true));
    image(
        "unsafe-internal-store-allow-incomplete=",
        Image::new().allow_incomplete(true),
    );
    // The store finds an image by its digest anyway.
    image("name-canonical=", Image::new());
    // What is said is what nobody says.
    for said in [
        "store=true",
        "unpack=false",
        "verify=false",
        "name-canonical=false",
        "dangling-name-prefix=",
        "danging-name-empty-only=false",
        "unsafe-internal-store-allow-incomplete=false",
        "push=false",
        "push-by-digest=false",
        "registry.insecure=false",
        "prefer-nondist-layers=false",
        "rewrite-timestamp=false",
        "compression=gzip,compression-level=5",
    ] {
        image(said, Image::new());
    }
    image("dangling-name-prefix=p", Image::new().dangling_prefix("p"));
    image(
        "danging-name-empty-only=",
        Image::new().dangling_only_if_unnamed(true),
    );
    #[cfg(feature = "registry")]
    {
        image("push=", Image::new().push(true));
        image("push=false", Image::new());
        image("push-by-digest=", Image::new().push_by_digest(true));
        image("registry.insecure=true", Image::new().insecure(true));
        let pushed = || Image::new().store(false).push(true);
        same("type=registry,name=a", &pushed().name("a"));
        same(
            "type=registry,push-by-digest=1,registry.insecure=,verify=",
            &pushed().push_by_digest(true).insecure(true).verify(true),
        );
        same(
            "type=registry,store=,unpack=1,dangling-name-prefix=p,danging-name-empty-only=true",
            &pushed()
                .store(true)
                .unpack(true)
                .dangling_prefix("p")
                .dangling_only_if_unnamed(true),
        );
    }
    let files = |change: fn(&mut FileOptions)| {
        let mut options = FileOptions::default();
        change(&mut options);
        options
    };
    for (text, options) in [
        ("source-date-epoch=7", files(|o| o.epoch = Epoch::At(7))),
        ("source-date-epoch=", files(|o| o.epoch = Epoch::None)),
        (
            "attestation-prefix=p-",
            files(|o| o.attestation_prefix = "p-".to_owned()),
        ),
        (
            "platform-split=false",
            files(|o| o.platform_split = Some(false)),
        ),
        (
            "platform-split=true",
            files(|o| o.platform_split = Some(true)),
        ),
    ] {
        let local = Local::new("x").options(options.clone());
        same(&format!("type=local,dest=x,{text}"), &local);
        same(
            &format!("type=tar,dest=x,{text}"),
            &Tar::file("x").options(options),
        );
    }
    let mirror = Local::new("x").mode(LocalMode::Delete);
    same("type=local,dest=x,mode=delete", &mirror);
    same("type=local,dest=x,mode=copy", &Local::new("x"));
    same("type=local,dest=x,verify=", &Local::new("x").verify(true));
    same("type=tar,dest=x,verify=", &Tar::file("x").verify(true));
}

#[test]
fn every_key_that_is_misspelt_is_told_with_all_that_are_valid() {
    for kind in TYPES {
        let nothing = |text: &str| Output::parse(&format!("type={kind},{text}=")).unwrap_err();
        let OutputError::Key { valid, .. } = nothing("no-such-key") else {
            panic!("{kind}: {}", nothing("no-such-key"));
        };
        let keys: Vec<&str> = valid.split(", ").filter(|key| !key.is_empty()).collect();
        assert_eq!(keys.is_empty(), kind == "cacheonly", "{kind}: {valid}");
        for key in &keys {
            if key.starts_with("annotation[") || key.starts_with("annotation-") {
                continue;
            }
            // A letter too many, and one too few, where that is no key.
            let word = key.split('[').next().unwrap();
            for wrong in [format!("{word}q"), word[1..].to_owned()] {
                if keys.contains(&wrong.as_str()) {
                    continue;
                }
                let error = nothing(&wrong);
                let OutputError::Key {
                    key: told,
                    valid: all,
                    hint,
                    ..
                } = &error
                else {
                    panic!("{kind} {wrong}: {error}");
                };
                assert_eq!((told, all), (&wrong, &valid), "{kind}");
                assert!(hint.contains("did you mean"), "{kind}: {error}");
                assert!(error.to_string().ends_with(&format!("it has: {valid}")));
            }
        }
    }
}
