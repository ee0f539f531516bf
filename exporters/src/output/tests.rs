use super::*;

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
        "type=docker,dest=x,name=a,compatibility-version=10,oci-artifact=false",
        "type=image,name=a,store=,unpack=false,name-canonical=true,danging-name-empty-only=",
        "type=image,dangling-name-prefix=p,attestation-inline=false,prefer-nondist-layers=true",
        "type=registry,name=a,push-by-digest=,registry.insecure=true",
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
        ("type=registry,name=x,unpack=true", "no key `unpack`"),
        ("type=docker,engine=x,dest=y", "no `dest` beside it"),
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
    let epoch = |text: &str| match Output::parse(text).unwrap().with_default_epoch(7) {
        Output::Tar(tar) => tar.options.epoch,
        Output::Oci(oci) => oci.options.epoch,
        other => panic!("{other:?}"),
    };
    assert_eq!(epoch("type=tar,dest=x"), Epoch::At(7));
    assert_eq!(epoch("type=tar,dest=x,source-date-epoch="), Epoch::None);
    assert_eq!(epoch("type=oci,dest=x,source-date-epoch=8"), Epoch::At(8));
}
