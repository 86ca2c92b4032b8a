// What the operator sees in the headset: the camera, words on each hand below it, a dot per hand.

const VERTEX = `#version 300 es
in vec2 corner; uniform mat4 place; out vec2 uv;
void main() { uv = vec2(corner.x, 1.0 - corner.y);
  gl_Position = place * vec4(corner - 0.5, 0.0, 1.0); }`;
const FRAGMENT = `#version 300 es
precision mediump float; in vec2 uv; uniform sampler2D picture; uniform vec4 tint; out vec4 colour;
void main() { colour = texture(picture, uv) * tint; }`;

const DISTANCE_M = 1.4, WIDTH_M = 1.4, BELOW_EYES_M = 0.1, WORDS_M = 0.14, DOT_M = 0.05;
const ASIDE_M = 0.6; // in see-through the words lie low and no picture hides the robot
const WORDS_PX = [1400, 140];
const COLOURS = { idle: [0.55, 0.65, 0.76, 1], engaged: [0.22, 0.79, 0.47, 1],
  limited: [0.94, 0.69, 0.24, 1], lost: [0.94, 0.39, 0.38, 1], stopped: [0.94, 0.39, 0.38, 1] };
const WHITE = [1, 1, 1, 1];

export class Scene {
  constructor(gl, opaque) {
    Object.assign(this, { gl, opaque, centre: null, picture: null, aspect: 4 / 3, said: '' });
    this.program = link(gl);
    this.place = gl.getUniformLocation(this.program, 'place');
    this.tint = gl.getUniformLocation(this.program, 'tint');
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, new Float32Array([0, 0, 1, 0, 0, 1, 1, 1]), gl.STATIC_DRAW);
    gl.enableVertexAttribArray(0);
    gl.vertexAttribPointer(0, 2, gl.FLOAT, false, 0, 0);
    this.lines = new OffscreenCanvas(...WORDS_PX).getContext('2d');
    this.lineTexture = texture(gl);
    this.dots = { left: letter(gl, 'L'), right: letter(gl, 'R') };
  }

  // Put the view before the operator anew, at the next frame.
  replace() { this.centre = null; }

  setPicture(bitmap) {
    this.picture ??= texture(this.gl);
    this.gl.bindTexture(this.gl.TEXTURE_2D, this.picture);
    fill(this.gl, bitmap);
    this.aspect = bitmap.width / bitmap.height;
  }

  draw(layer, viewer, hands, status) {
    const { gl } = this;
    this.centre ??= before(viewer.transform);
    this.#write(status.texts);
    gl.bindFramebuffer(gl.FRAMEBUFFER, layer.framebuffer);
    gl.clearColor(...(this.opaque ? [0.06, 0.08, 0.11, 1] : [0, 0, 0, 0]));
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.useProgram(this.program);
    gl.enable(gl.BLEND);
    gl.blendFunc(gl.SRC_ALPHA, gl.ONE_MINUS_SRC_ALPHA);
    for (const view of viewer.views) {
      const port = layer.getViewport(view);
      gl.viewport(port.x, port.y, port.width, port.height);
      const look = multiply(view.projectionMatrix, view.transform.inverse.matrix);
      const height = this.picture ? WIDTH_M / this.aspect : 0;
      if (this.picture && this.opaque) {
        this.#quad(look, shifted(this.centre, 0), WIDTH_M, height, this.picture, WHITE);
      }
      const below = this.opaque ? height / 2 + WORDS_M / 2 + 0.02 : ASIDE_M;
      const line = shifted(this.centre, -below);
      this.#quad(look, line, WIDTH_M, WORDS_M, this.lineTexture, WHITE);
      for (const [name, hand] of Object.entries(hands)) {
        if (!hand.present) continue;
        const state = hand.tracked ? status.states[name] ?? 'idle' : 'lost';
        const facing = view.transform.matrix.slice();
        facing.set(hand.pose.slice(0, 3), 12);
        this.#quad(look, facing, DOT_M, DOT_M, this.dots[name], COLOURS[state]);
      }
    }
  }

  #quad(look, place, width, height, picture, tint) {
    const { gl } = this;
    gl.bindTexture(gl.TEXTURE_2D, picture);
    gl.uniformMatrix4fv(this.place, false, scaled(multiply(look, place), width, height));
    gl.uniform4fv(this.tint, tint);
    gl.drawArrays(gl.TRIANGLE_STRIP, 0, 4);
  }

  // texts: [words, state] each, side by side.
  #write(texts) {
    const said = JSON.stringify(texts);
    if (said === this.said) return;
    this.said = said;
    const [width, height] = WORDS_PX, draw = this.lines, each = width / texts.length;
    draw.clearRect(0, 0, width, height);
    draw.font = '600 48px system-ui, sans-serif';
    draw.textAlign = 'center';
    draw.textBaseline = 'middle';
    texts.forEach(([words, state], i) => {
      const [r, g, b] = COLOURS[state].map((part) => 255 * part);
      draw.fillStyle = '#18202a';
      draw.fillRect(i * each + 6, 0, each - 12, height);
      draw.fillStyle = `rgb(${r} ${g} ${b})`;
      draw.fillRect(i * each + 6, 0, each - 12, 16);
      draw.fillText(words, (i + 0.5) * each, height / 2 + 8, each - 50);
    });
    this.gl.bindTexture(this.gl.TEXTURE_2D, this.lineTexture);
    fill(this.gl, draw.canvas);
  }
}

function link(gl) {
  const program = gl.createProgram();
  for (const [kind, text] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, text);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.bindAttribLocation(program, 0, 'corner');
  gl.linkProgram(program);
  return program;
}

function texture(gl) {
  const made = gl.createTexture();
  gl.bindTexture(gl.TEXTURE_2D, made);
  for (const side of [gl.TEXTURE_WRAP_S, gl.TEXTURE_WRAP_T]) {
    gl.texParameteri(gl.TEXTURE_2D, side, gl.CLAMP_TO_EDGE);
  }
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR);
  return made;
}

function fill(gl, source) {
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, source);
}

function letter(gl, text) {
  const draw = new OffscreenCanvas(64, 64).getContext('2d');
  draw.fillStyle = '#fff';
  draw.arc(32, 32, 30, 0, 2 * Math.PI);
  draw.fill();
  draw.fillStyle = '#10151c';
  draw.font = '700 40px system-ui, sans-serif';
  draw.textAlign = 'center';
  draw.textBaseline = 'middle';
  draw.fillText(text, 32, 34);
  const made = texture(gl);
  fill(gl, draw.canvas);
  return made;
}

// Column-major 4x4 matrices, as WebGL has them.

// Upright, before the eyes, facing them.
function before(head) {
  const m = head.matrix, length = Math.hypot(m[8], m[10]) || 1;
  const x = m[8] / length, z = m[10] / length; // backwards, level
  const { x: px, y: py, z: pz } = head.position;
  return new Float32Array([z, 0, -x, 0, 0, 1, 0, 0, x, 0, z, 0,
    px - x * DISTANCE_M, py - BELOW_EYES_M, pz - z * DISTANCE_M, 1]);
}

function shifted(place, up) {
  const m = place.slice();
  m[13] += up;
  return m;
}

function scaled(place, width, height) {
  return place.map((value, i) => value * (i < 4 ? width : i < 8 ? height : 1));
}

function multiply(a, b) {
  const out = new Float32Array(16);
  for (let column = 0; column < 4; column++) {
    for (let row = 0; row < 4; row++) {
      for (let k = 0; k < 4; k++) out[4 * column + row] += a[4 * k + row] * b[4 * column + k];
    }
  }
  return out;
}
