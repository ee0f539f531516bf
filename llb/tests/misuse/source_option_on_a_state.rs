use ashlar_llb as llb;

fn main() {
    let _ = llb::image("a").dir("/src").layer_limit(1);
}
