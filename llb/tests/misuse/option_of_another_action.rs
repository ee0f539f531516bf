use ashlar_llb as llb;

fn main() {
    let _ = llb::mkdir("/a").allow_not_found();
}
