use ashlar_llb as llb;

fn main() {
    let _: llb::DiffId = llb::ChainId::of(b"");
}
