use ashlar_llb as llb;

fn main() {
    let _ = llb::image("a").extra_host("host", "127.0.0.1");
}
