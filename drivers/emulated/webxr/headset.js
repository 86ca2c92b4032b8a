// Runs before the rig's page in an emulated headset: a WebXR runtime whose controllers, hands or
// phone are moved from outside by `headset.move`. Expects iwer's script to have run, and
// `headsetOptions`: {rateHz, bareHands, phone}.
'use strict';

// A hand whose middle, ring and little finger curl; iwer's own can only pinch.
class BareHand {
  static FINGERS = ['middle', 'ring', 'pinky'];
  static CHAIN = ['phalanx-proximal', 'phalanx-intermediate', 'phalanx-distal', 'tip'];
  static CURL_DEG = 75; // of each joint of a fist

  constructor(input) {
    this.input = input;
    const state = input[IWER.P_HAND_INPUT];
    this.open = structuredClone({ default: state.poses.default, pinch: state.poses.pinch });
    this.poses = structuredClone(this.open);
    // The grip stays where it is while fingers move.
    this.poses.pinch.gripOffsetMatrix = this.open.default.gripOffsetMatrix;
    state.poses = this.poses;
  }

  shape(pinch, curl) {
    this.input.updatePinchValue(pinch);
    for (const pose of ['default', 'pinch']) {
      for (const finger of BareHand.FINGERS) this.#bend(pose, finger, -curl * BareHand.CURL_DEG);
    }
  }

  #bend(pose, finger, degrees) {
    let moved = new DOMMatrix();
    for (const part of BareHand.CHAIN) {
      const name = `${finger}-finger-${part}`;
      const joint = DOMMatrix.fromFloat32Array(
        new Float32Array(this.open[pose].jointTransforms[name].offsetMatrix));
      // About the joint's own x axis, which points right across the finger.
      const bend = joint.multiply(new DOMMatrix().rotateAxisAngle(1, 0, 0, degrees))
        .multiply(joint.inverse());
      moved = moved.multiply(bend);
      this.poses[pose].jointTransforms[name].offsetMatrix = moved.multiply(joint).toFloat32Array();
    }
  }
}

globalThis.headset = (() => {
  const options = globalThis.headsetOptions;
  const pulses = []; // felt by the operator: [hand, strength]

  // A headset's steady frames; those of a browser without a screen are irregular.
  const period = 1000 / options.rateHz;
  let due = performance.now();
  globalThis.requestAnimationFrame = (callback) => {
    const now = performance.now();
    due = Math.max(due + period, now);
    return setTimeout(() => callback(performance.now()), due - now);
  };
  globalThis.cancelAnimationFrame = clearTimeout;

  const model = { ...IWER.metaQuest3 };
  if (options.phone) {
    Object.assign(model, { supportedSessionModes: ['inline', 'immersive-ar'],
      interactionMode: 'screen-space', controllerConfig: undefined,
      supportedFeatures: ['viewer', 'local', 'local-floor', 'dom-overlay'] });
  }
  const device = new IWER.XRDevice(model, { stereoEnabled: !options.phone });
  device.installRuntime({ forceInstall: true });
  device.primaryInputMode = options.bareHands ? 'hand' : 'controller';

  // As the standard has it: no pose of what is not seen, and a mark on what is only guessed. iwer
  // sees everything, and calls every position a guess.
  const unseen = new Set();
  let guessing = false;
  for (const method of ['getPose', 'getJointPose']) {
    const original = XRFrame.prototype[method];
    XRFrame.prototype[method] = function (space, base) {
      return unseen.has(space) ? null : original.call(this, space, base);
    };
  }
  Object.defineProperty(XRPose.prototype, 'emulatedPosition', { get: () => guessing });

  const held = options.phone ? {} : options.bareHands ? device.hands : device.controllers;
  const bare = {}, aims = {};
  for (const [name, input] of Object.entries(held)) {
    if (options.bareHands) bare[name] = new BareHand(input);
    const space = input.inputSource.targetRaySpace[IWER.P_SPACE];
    input.updateTargetRaySpace = () => { if (aims[name]) space.offsetMatrix.set(aims[name]); };
    const actuator = input.inputSource.gamepad.hapticActuators[0];
    if (actuator) actuator.pulse = async (strength) => pulses.push([name, strength]);
  }

  function moveHeld(name, hand) {
    const source = held[name].inputSource;
    for (const space of [source.gripSpace, ...(source.hand?.values() ?? [])]) {
      if (hand.tracked) unseen.delete(space); else unseen.add(space);
    }
    if (options.bareHands) bare[name].shape(hand.trigger, hand.squeeze);
    else press(held[name], name, hand);
    // iwer places the aim; the page reads the grip, at a fixed offset from it.
    const [x, y, z, w] = hand.quaternion;
    const half = Math.hypot(x, y, z), degrees = 2 * Math.atan2(half, w) * 180 / Math.PI;
    const grip = new DOMMatrix().translate(...hand.position);
    if (half > 0) grip.rotateAxisAngleSelf(x, y, z, degrees);
    const offset = options.bareHands ? bare[name].open.default.gripOffsetMatrix
      : source.gripSpace[IWER.P_SPACE].offsetMatrix;
    aims[name] = grip.multiply(
      DOMMatrix.fromFloat32Array(new Float32Array(offset)).inverse()).toFloat32Array();
  }

  function press(controller, name, hand) {
    const [a, b] = name === 'left' ? ['x-button', 'y-button'] : ['a-button', 'b-button'];
    const down = (button) => (hand.buttons.includes(button) ? 1 : 0);
    controller.updateButtonValue('trigger', hand.trigger);
    controller.updateButtonValue('squeeze', hand.squeeze);
    controller.updateButtonValue('thumbstick', down('thumbstick'));
    controller.updateButtonValue(a, down('a'));
    controller.updateButtonValue(b, down('b'));
    controller.updateAxes('thumbstick', hand.stick[0], -hand.stick[1]);
  }

  const touched = {};
  function touch(id, down) {
    if (Boolean(touched[id]) === down) return;
    touched[id] = down;
    const element = document.getElementById(id);
    element.dispatchEvent(new PointerEvent(down ? 'pointerdown' : 'pointerup'));
    if (!down) element.click();
  }

  function movePhone(hand) {
    device.position.set(...hand.position);
    device.quaternion.set(...hand.quaternion);
    if (hand.tracked) unseen.delete(device.viewerSpace); else unseen.add(device.viewerSpace);
    touch('hold', hand.squeeze > 0.5);
    touch('phone-a', hand.buttons.includes('a'));
    if (Boolean(touched.grip) !== hand.trigger > 0.5) {
      touched.grip = hand.trigger > 0.5;
      document.getElementById('phone-grip').click();
    }
  }

  return {
    pulses,
    entered: () => Boolean(device.activeSession),
    // hand: {position, quaternion (x y z w) of the grip, tracked, trigger, squeeze, stick, buttons}
    move: (name, hand) => (options.phone ? movePhone(hand) : moveHeld(name, hand)),
    plug(name, there) { held[name].connected = there; },
    guess(on) { guessing = on; },
    hide(on) { device.updateVisibilityState(on ? 'hidden' : 'visible'); },
    recentre() { device.recenter(); },
  };
})();
