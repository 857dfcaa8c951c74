// The model itself: two ONNX programs, from data to latent and back, run by onnxruntime-web inside the page.

const ARRAYS = { float32: Float32Array, float64: Float64Array };

// A script beside the page; it is not requested before it is needed.
function loadScript(source) {
  return new Promise((loaded, failed) => {
    const script = Object.assign(document.createElement("script"), { src: source });
    script.onload = loaded;
    script.onerror = () => failed(new Error(`${source} is missing beside the page`));
    document.head.append(script);
  });
}

// The runtime comes from the script, not from a server: from disk a page may request nothing.
async function startRuntime() {
  await loadScript("runtime.js");
  const { module, program } = window.flowstoneRuntime;
  const unpacked = new Blob([bytesOf(program)]).stream().pipeThrough(new DecompressionStream("gzip"));
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await new Response(unpacked).arrayBuffer();
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([bytesOf(module)], { type: "text/javascript" })) };
}

class Model {
  static async load() {
    await Promise.all([startRuntime(), loadScript("model-data.js")]);
    const record = window.flowstoneModel;
    const [forward, inverse] = [await Model.session(record.forward), await Model.session(record.inverse)];
    return new Model(record, forward, inverse);
  }

  static session(program) {
    return ort.InferenceSession.create(bytesOf(program), { executionProviders: ["wasm"] });
  }

  constructor(record, forward, inverse) {
    Object.assign(this, { record, forward, inverse, features: record.features, last: Promise.resolve() });
  }

  // One program runs at a time; a batch has at least two rows, as the programs were exported for.
  run(session, values, type) {
    const count = values.length / this.features;
    const rows = count > 1 ? values : [...values, ...values];
    const tensor = new ort.Tensor(type, ARRAYS[type].from(rows), [Math.max(count, 2), this.features]);
    const result = this.last.then(() => session.run({ [session.inputNames[0]]: tensor }));
    this.last = result.catch(() => {});
    // An output is (rows) or (rows, features); the second row of a batch that had but one is left out.
    return result.then((outputs) => Object.fromEntries(session.outputNames.map((name) => {
      const { data, dims } = outputs[name];
      return [name, Array.from(data.slice(0, (count * data.length) / dims[0]))];
    })));
  }

  // Log-density of each row in nats, and its latent.
  async logProb(x) {
    const { log_prob: logProb, z } = await this.run(this.forward, x, this.record.dataType);
    return { logProb, z };
  }

  async fromLatent(z) {
    return (await this.run(this.inverse, z, this.record.latentType)).x;
  }

  // The largest difference, in nats, from the log-densities that Python computed.
  async difference() {
    const { rows, logProb } = this.record;
    const here = (await this.logProb(rows)).logProb;
    return Math.max(...here.map((value, index) => (value === logProb[index] ? 0 : Math.abs(value - logProb[index]))));
  }

  // Latents of `count` samples, times the temperature.
  latents(count, temperature, random) {
    const { prior } = this.record;
    const z = [];
    const normal = () => Math.sqrt(-2 * Math.log(1 - random())) * Math.cos(2 * Math.PI * random());
    const draw = {
      normal,
      logistic: () => { const u = random() || 2 ** -33; return Math.log(u / (1 - u)); },
      uniform: () => prior.low + (prior.high - prior.low) * random(),
      // Bailey's polar method, as in flowstone.priors.StudentT.
      student: (feature) => {
        const df = prior.df[feature];
        return Math.sqrt(df * Math.expm1((-2 / df) * Math.log(1 - random()))) * Math.cos(2 * Math.PI * random());
      },
    }[prior.kind];
    for (let row = 0; row < count; row += 1) {
      if (prior.kind !== "mixture") {
        for (let feature = 0; feature < this.features; feature += 1) z.push(temperature * draw(feature));
        continue;
      }
      let left = random();
      const component = Math.max(prior.weights.findIndex((weight) => (left -= weight) < 0), 0);
      const noise = Array.from({ length: this.features }, normal);
      for (let feature = 0; feature < this.features; feature += 1) {
        const moved = noise.reduce((sum, value, from) => sum + value * prior.matrices[component][from][feature], 0);
        z.push(temperature * (prior.means[component][feature] + moved));
      }
    }
    return z;
  }
}
