use ashlar_llb as llb;

fn main() {
    let _ = llb::image_blob("a").store("s");
}
