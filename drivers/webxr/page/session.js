// One stay in VR, in see-through, or with a phone: reads the hands each frame, sends, draws.

import { HANDS, newHand, packet, readSource, release, setPose } from './hands.js';
import { Scene } from './scene.js';

export class Session {
  // on: {ended()}; phone: what the touch screen holds, {held, grip, buttons}
  constructor(link, canvas, phone, on) {
    Object.assign(this, { link, canvas, phone, on, seq: 0, skipped: 0, jumped: false });
    this.hands = { left: newHand(), right: newHand() };
    this.status = { texts: [], states: {} }; // see app.js
  }

  async enter(mode, overlay) {
    this.xr = await navigator.xr.requestSession(mode, {
      requiredFeatures: ['local'],
      optionalFeatures: ['local-floor', 'hand-tracking', 'dom-overlay'],
      domOverlay: { root: overlay },
    });
    this.isPhone = this.xr.interactionMode === 'screen-space';
    this.xr.addEventListener('end', () => this.#ended());
    this.xr.addEventListener('visibilitychange', () => this.#tellHidden());
    const gl = this.canvas.getContext('webgl2', { xrCompatible: true });
    await gl.makeXRCompatible();
    this.scene = new Scene(gl, mode === 'immersive-vr');
    this.xr.updateRenderState({ baseLayer: new XRWebGLLayer(this.xr, gl) });
    this.room = await this.xr.requestReferenceSpace('local-floor')
      .catch(() => this.xr.requestReferenceSpace('local'));
    // The operator recentred the room: every pose jumps.
    this.room.addEventListener('reset', () => { this.jumped = true; this.scene.replace(); });
    this.xr.requestAnimationFrame((time, frame) => this.#frame(frame));
  }

  leave() { this.xr.end(); }

  pulse(hand, strength) {
    for (const source of this.xr.inputSources) {
      if (source.handedness === hand) source.gamepad?.hapticActuators?.[0]?.pulse(strength, 40);
    }
  }

  #frame(frame) {
    this.xr.requestAnimationFrame((time, next) => this.#frame(next));
    const now = performance.now();
    const viewer = frame.getViewerPose(this.room);
    if (this.xr.visibilityState !== 'visible' || this.jumped) this.#releaseAll();
    else if (this.isPhone) this.#readPhone(viewer);
    else this.#readSources(frame);
    this.jumped = false;
    this.#send(now, true);
    // A phone shows what its camera sees, under the page's own buttons.
    if (viewer && !this.isPhone) this.scene.draw(this.xr.renderState.baseLayer, viewer, this.hands, this.status);
  }

  #readSources(frame) {
    const seen = new Set();
    for (const source of this.xr.inputSources) {
      const name = source.handedness;
      // A gaze or a touch has a hand's name at times, and no hand.
      if (source.targetRayMode !== 'tracked-pointer' || !HANDS.includes(name)) continue;
      if (seen.has(name)) continue;
      seen.add(name);
      readSource(this.hands[name], source, frame, this.room);
    }
    for (const name of HANDS) if (!seen.has(name)) release(this.hands[name]);
  }

  #readPhone(viewer) {
    const hand = this.hands[this.phone.hand];
    hand.present = true;
    hand.squeeze = this.phone.held ? 1 : 0;
    hand.trigger = this.phone.grip ? 1 : 0;
    hand.buttons = this.phone.buttons;
    setPose(hand, viewer);
  }

  #releaseAll() { for (const name of HANDS) release(this.hands[name]); }

  #send(now, running) {
    if (!this.link.send(packet(this.seq++, now, running, this.hands))) this.skipped++;
  }

  // A hidden session may get no further frames: tell at once.
  #tellHidden() {
    if (this.xr.visibilityState === 'visible') return;
    this.#releaseAll();
    this.#send(performance.now(), true);
  }

  #ended() {
    this.#releaseAll();
    this.#send(performance.now(), false);
    this.on.ended();
  }
}
